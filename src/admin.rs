//! The HTTP side: metrics, health, readiness.
//!
//! Knows nothing of capture: metrics come from a registry and health from a [`Health`]. Every request has a connection of its
//! own, with a limit on connections, on their time and on what they may send, so that a slow client costs only itself.

use crate::metrics::{counters, gauge, gauges};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, sockopt};
use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, IntCounter, IntGauge, Registry, TextEncoder};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git commit that the program was built from, if `FLOWARC_GIT_COMMIT` was set then.
pub const GIT_COMMIT: Option<&str> = option_env!("FLOWARC_GIT_COMMIT");

/// Says how the program is. Called on every probe, so it must not block.
pub trait Health: Send + Sync {
    /// Whether every loop still turns; if not, only a restart helps.
    fn is_live(&self) -> bool;

    /// Whether connections are being archived now.
    ///
    /// # Errors
    /// Gives each reason why not, one line each.
    fn readiness(&self) -> Result<(), Vec<String>>;
}

/// Where to listen, written as in Go: `:9990`, `host:port`, `[v6]:port`.
///
/// No host, `0.0.0.0` and `::` all mean every address of both families. Port 0 is any free port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenAddr {
    host: String,
    port: u16,
}

impl ListenAddr {
    /// Where a client on this host reaches it: the loopback addresses where it listens on all.
    ///
    /// # Errors
    /// Fails where the name does not resolve.
    pub fn reached_at(&self) -> io::Result<Vec<SocketAddr>> {
        if self.is_everywhere() {
            return Ok(vec![(Ipv4Addr::LOCALHOST, self.port).into(), (Ipv6Addr::LOCALHOST, self.port).into()]);
        }
        let mut addresses: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        // As in Go, a name means its IPv4 address where it has one.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(addresses)
    }

    fn is_everywhere(&self) -> bool {
        self.host.is_empty() || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified())
    }
}

impl FromStr for ListenAddr {
    type Err = BadListenAddr;

    fn from_str(text: &str) -> Result<Self, BadListenAddr> {
        let (host, port) = text.rsplit_once(':').ok_or(BadListenAddr::NoPort)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let (host, reserved): (_, &[char]) = bracketed.map_or((host, &['[', ']', ':']), |inner| (inner, &['[', ']']));
        if host.contains(reserved) {
            return Err(BadListenAddr::Brackets);
        }
        // u16's own parser would take a plus sign.
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(BadListenAddr::Port)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Why a text is not an address to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadListenAddr {
    /// No colon.
    #[error("no port: want :9990, host:port or [v6]:port")]
    NoPort,
    /// Colons in the host.
    #[error("an IPv6 address needs brackets around it: [::1]:9990")]
    Brackets,
    /// The port is no number.
    #[error("the port is not a number from 0 to 65535")]
    Port,
}

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for metrics: {source} (choose another -prometheusx.listen-address, or end what uses this one)")]
pub struct BindError {
    address: ListenAddr,
    source: io::Error,
}

/// A port that is ours and not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    header_timeout: Duration,
}

/// Takes the port, so that a port that is in use stops the program before it opens anything else.
///
/// # Errors
/// Fails where the name does not resolve or none of its addresses can be bound.
pub fn bind(address: &ListenAddr) -> Result<Listener, BindError> {
    let bound = bind_socket(address).and_then(|socket| {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Listener { socket, address, header_timeout: HEADER_TIMEOUT })
    });
    let listener = bound.map_err(|source| BindError { address: address.clone(), source })?;
    info!(address = %listener.address, "metrics and health are served over HTTP");
    Ok(listener)
}

impl Listener {
    /// The address in use, with the port that was chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes, then lets requests that have begun finish for up to a second.
    ///
    /// Registers the metrics of the process, of the build and of this server, so call it once for a registry.
    ///
    /// # Errors
    /// Fails outside a tokio runtime with I/O and time.
    pub async fn serve(self, registry: Registry, health: Arc<dyn Health>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.socket)?;
        let site = Arc::new(Site::new(registry, health));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (stop, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            // The place first: clients beyond the limit wait in the kernel's queue.
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
                (place, listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => break,
                (place, accepted) = next => match accepted {
                    Ok((stream, _)) => {
                        let connection = serve_connection(stream, Arc::clone(&site), self.header_timeout, stopped.clone());
                        connections.spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                    // Out of descriptors, most likely: others may be given back.
                    Err(error) => {
                        warn!(%error, "cannot accept an HTTP connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop((listener, stop));
        // Dropping the set ends those that are still there.
        let _ = tokio::time::timeout(SHUTDOWN_GRACE, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

async fn serve_connection(stream: TcpStream, site: Arc<Site>, header_timeout: Duration, mut stopped: watch::Receiver<()>) {
    let service = service_fn(|request| {
        let response = site.respond(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(MAX_HEADER_LEN)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = async {
        tokio::select! {
            done = connection.as_mut() => done,
            // Only an error can come: the sender is gone, which is the signal.
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    // What fails here is the client's affair.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, served).await;
}

/// What is served.
struct Site {
    registry: Registry,
    health: Arc<dyn Health>,
    ready: IntGauge,
    in_flight: IntGauge,
    succeeded: IntCounter,
    failed: IntCounter,
}

impl Site {
    fn new(registry: Registry, health: Arc<dyn Health>) -> Self {
        register_build_metrics(&registry);
        let requests = counters(
            &registry,
            "promhttp_metric_handler_requests_total",
            "Requests for metrics, by HTTP status; all should be 200.",
            &["code"],
        );
        // The predecessor's third status, which this server has no way to give.
        requests.with_label_values(&["503"]);
        let in_flight = gauge(
            &registry,
            "promhttp_metric_handler_requests_in_flight",
            "Requests for metrics being answered now: at least this one.",
        );
        let ready = gauge(
            &registry,
            "flowarc_ready",
            "1 while /readyz answers 200, else 0; should be 1. /readyz and the log say why it is not.",
        );
        Self {
            health,
            ready,
            in_flight,
            succeeded: requests.with_label_values(&["200"]),
            failed: requests.with_label_values(&["500"]),
            registry,
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(StatusCode::NOT_FOUND, "not found: want /metrics, /healthz or /readyz\n");
        }
        // hyper leaves the body out where the method is HEAD.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: want GET or HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => self.liveness(),
            _ => self.readiness(),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.in_flight.inc();
        self.ready.set(self.health.readiness().is_ok().into());
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        self.in_flight.dec();
        match encoded {
            Ok(()) => {
                self.succeeded.inc();
                respond(StatusCode::OK, METRICS_TYPE, text)
            }
            Err(error) => {
                self.failed.inc();
                warn!(%error, "cannot encode metrics");
                plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n"))
            }
        }
    }

    fn liveness(&self) -> Response<Full<Bytes>> {
        if self.health.is_live() {
            plain(StatusCode::OK, "alive\n")
        } else {
            plain(StatusCode::SERVICE_UNAVAILABLE, "a loop has stopped\n")
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        match self.health.readiness() {
            Ok(()) => plain(StatusCode::OK, "ready\n"),
            Err(reasons) => plain(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Registers `process_*`, the predecessor's `git_short_commit` and the version.
fn register_build_metrics(registry: &Registry) {
    registry.register(Box::new(ProcessCollector::for_self())).expect("each metric is registered once");
    let commit = GIT_COMMIT.unwrap_or("unknown");
    gauges(registry, "git_short_commit", "The commit that this program was built from, as a number; 0 if unknown.", &["commit"])
        .with_label_values(&[commit])
        .set(i64::from_str_radix(commit, 16).unwrap_or(0));
    gauges(registry, "flowarc_build_info", "The version of this program, as a label; always 1.", &["version"])
        .with_label_values(&[VERSION])
        .set(1);
}

fn bind_socket(address: &ListenAddr) -> io::Result<TcpListener> {
    if address.is_everywhere() {
        return match bind_both_families(address.port) {
            // A host without IPv6.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port)),
            bound => bound.map_err(io::Error::from),
        };
    }
    TcpListener::bind(address.reached_at()?.as_slice())
}

/// One socket for IPv4 and IPv6, whatever `net.ipv6.bindv6only` says.
fn bind_both_families(port: u16) -> nix::Result<TcpListener> {
    let socket = socket::socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    socket::bind(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// The text format that every Prometheus reads (prometheus.io/docs/instrumenting/exposition_formats).
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Some scrapers, some probes and some people; each has a buffer of [`MAX_HEADER_LEN`].
const MAX_CONNECTIONS: usize = 64;

/// What is queued behind them: std's own number.
const BACKLOG: i32 = 128;

/// How long a client may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last, with the reading of the answer: Prometheus's default scrape timeout.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long requests may go on after shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Browsers with their cookies send a few KiB.
const MAX_HEADER_LEN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    #[test]
    fn addresses_are_gos() {
        for (text, host, port) in [
            (":9990", "", 9990),
            ("127.0.0.1:0", "127.0.0.1", 0),
            ("[::1]:80", "::1", 80),
            ("localhost:65535", "localhost", 65535),
        ] {
            let address: ListenAddr = text.parse().expect(text);
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for (text, error) in [
            ("", BadListenAddr::NoPort),
            ("9990", BadListenAddr::NoPort),
            ("::1:80", BadListenAddr::Brackets),
            ("[::1:80", BadListenAddr::Brackets),
            ("a:", BadListenAddr::Port),
            (":65536", BadListenAddr::Port),
            (":+1", BadListenAddr::Port),
            (":http", BadListenAddr::Port),
        ] {
            assert_eq!(text.parse::<ListenAddr>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn addresses_print_as_they_read(text in prop_oneof!["\\PC*", "[a-z.:\\[\\]]{0,6}:[0-9]{0,6}"]) {
            if let Ok(address) = text.parse::<ListenAddr>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }

    #[test]
    fn no_host_means_both_families() {
        for text in [":0", "0.0.0.0:0", "[::]:0"] {
            let listener = bind(&text.parse().expect("well formed")).expect("a free port");
            let port = listener.local_addr().port();
            assert_ne!(port, 0);
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("IPv4");
            if listener.local_addr().is_ipv6() {
                // A host may have the family and no address of it.
                match std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)) {
                    Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => eprintln!("SKIPPED: no ::1 here"),
                    connected => drop(connected.expect("IPv6")),
                }
            }
        }
    }

    #[test]
    fn who_listens_everywhere_is_reached_on_this_host() {
        for text in [":9990", "0.0.0.0:9990", "[::]:9990"] {
            let address: ListenAddr = text.parse().expect("well formed");
            let reached = address.reached_at().expect("no name to look up");
            assert_eq!(reached, [(Ipv4Addr::LOCALHOST, 9990).into(), (Ipv6Addr::LOCALHOST, 9990).into()], "{text}");
        }
        let address: ListenAddr = "192.0.2.7:9993".parse().expect("well formed");
        assert_eq!(address.reached_at().expect("no name to look up"), [SocketAddr::from(([192, 0, 2, 7], 9993))]);
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it() {
        for host in ["", "127.0.0.1"] {
            let first = bind(&format!("{host}:0").parse().expect("well formed")).expect("a free port");
            let address = format!("{host}:{}", first.local_addr().port());
            let error = bind(&address.parse().expect("well formed")).expect_err("in use").to_string();
            assert!(error.contains(&address) && error.contains("-prometheusx.listen-address"), "{error}");
        }
    }

    #[tokio::test]
    async fn metrics_have_the_prometheus_text_format_and_count_their_requests() {
        let server = Server::start();
        let first = server.get("/metrics").await;
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
        assert!(first.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{first}");
        for line in [
            "promhttp_metric_handler_requests_total{code=\"200\"} 0",
            "promhttp_metric_handler_requests_total{code=\"500\"} 0",
            "promhttp_metric_handler_requests_total{code=\"503\"} 0",
            "promhttp_metric_handler_requests_in_flight 1",
            concat!("flowarc_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(first.lines().any(|l| l == line), "{line} in {first}");
        }
        assert!(first.contains("git_short_commit{commit=") && first.contains("process_open_fds "), "{first}");
        let second = server.get("/metrics?x=y").await;
        assert!(second.contains("promhttp_metric_handler_requests_total{code=\"200\"} 1"), "{second}");
        server.stop().await;
    }

    #[tokio::test]
    async fn health_and_readiness_follow_the_program() {
        let server = Server::start();
        assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200 "));
        let ready = server.get("/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("\r\n\r\nready\n"), "{ready}");
        assert!(server.get("/metrics").await.contains("\nflowarc_ready 1\n"));

        *server.state.0.lock().expect("not poisoned") = (false, vec!["no interface is captured", "event socket lost"]);
        assert!(server.get("/healthz").await.starts_with("HTTP/1.1 503 "));
        let reasons = server.get("/readyz").await;
        assert!(reasons.starts_with("HTTP/1.1 503 "), "{reasons}");
        assert!(reasons.ends_with("\r\n\r\nno interface is captured\nevent socket lost\n"), "{reasons}");
        assert!(server.get("/metrics").await.contains("\nflowarc_ready 0\n"));
        server.stop().await;
    }

    #[tokio::test]
    async fn only_these_paths_and_methods_exist() {
        let server = Server::start();
        for path in ["/", "/metrics/", "/debug/pprof/", "//metrics"] {
            assert!(server.get(path).await.starts_with("HTTP/1.1 404 "), "{path}");
        }
        let post = server.request("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD\r\n"), "{post}");
        let head = server.request("HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        server.stop().await;
    }

    #[tokio::test]
    async fn clients_that_say_nothing_are_dropped_and_the_next_is_served() {
        let server = Server::start_with(Duration::from_millis(50));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 1 {
            silent.push(TcpStream::connect(server.address).await.expect("queued"));
        }
        assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200 "));
        server.stop().await;
    }

    #[tokio::test]
    async fn shutdown_does_not_wait_for_clients_that_say_nothing() {
        let server = Server::start();
        let mut silent = TcpStream::connect(server.address).await.expect("accepted");
        assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200 "));
        let address = server.address;
        server.stop().await;
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }

    /// Whether the program lives, and what keeps it from being ready.
    struct State(Mutex<(bool, Vec<&'static str>)>);

    impl Health for State {
        fn is_live(&self) -> bool {
            self.0.lock().expect("not poisoned").0
        }

        fn readiness(&self) -> Result<(), Vec<String>> {
            let state = self.0.lock().expect("not poisoned");
            if state.1.is_empty() { Ok(()) } else { Err(state.1.iter().map(ToString::to_string).collect()) }
        }
    }

    struct Server {
        address: SocketAddr,
        state: Arc<State>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<io::Result<()>>,
    }

    impl Server {
        fn start() -> Self {
            Self::start_with(HEADER_TIMEOUT)
        }

        fn start_with(header_timeout: Duration) -> Self {
            let mut listener = bind(&"127.0.0.1:0".parse().expect("well formed")).expect("a free port");
            listener.header_timeout = header_timeout;
            let state = Arc::new(State(Mutex::new((true, vec![]))));
            let address = listener.local_addr();
            let (stop, stopped) = oneshot::channel();
            let serve = listener.serve(Registry::new(), state.clone(), async { stopped.await.unwrap_or(()) });
            Self { address, state, stop, task: tokio::spawn(serve) }
        }

        async fn get(&self, path: &str) -> String {
            self.request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
        }

        async fn request(&self, text: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.expect("accepted");
            stream.write_all(text.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("answered");
            answer
        }

        async fn stop(self) {
            self.stop.send(()).expect("serving");
            self.task.await.expect("no panic").expect("in a runtime");
        }
    }
}
