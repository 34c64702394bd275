//! The scenarios of tests/lab: real connections between namespaces, the archive compared with tcpdump's capture.
//!
//! One at a time: they measure how fast things happen. The scenario `kill` kills 5 times, and 50 times where
//! FLOWARC_LONG=1.

mod support;

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use support::lab::privileged;

#[test]
fn the_lab_itself_is_right() {
    run("the_lab_itself_is_right", "self_test.py", &[]);
}

#[test]
fn a_thousand_connections_give_a_thousand_whole_files() {
    scenario("buffered");
}

#[test]
fn a_thousand_connections_are_streamed_into_whole_files() {
    scenario("stream");
}

#[test]
fn a_thousand_connections_on_two_shards_give_whole_files() {
    scenario("shards");
}

#[test]
fn open_connections_are_on_disk_after_sigterm() {
    scenario("sigterm");
}

#[test]
fn capture_survives_a_restart_of_the_event_socket() {
    scenario("events-restart");
}

#[test]
fn capture_goes_on_when_the_interface_was_down_or_made_anew() {
    scenario("link");
}

#[test]
fn connections_to_an_address_that_came_later_have_files() {
    scenario("address");
}

#[test]
fn after_kill_9_no_file_is_partial_and_sealed_segments_come_back() {
    scenario("kill");
}

#[test]
fn connections_of_under_a_millisecond_have_the_names_of_their_sockets() {
    kernel_scenario("brief");
}

#[test]
fn who_reads_the_served_event_socket_hears_of_each_connection_though_others_do_not_read() {
    kernel_scenario("serve");
}

#[test]
fn names_of_event_socket_and_kernel_are_compared() {
    kernel_scenario("both");
}

#[test]
fn the_kernel_names_connections_for_a_user_with_cap_net_raw_alone() {
    kernel_scenario("unprivileged");
}

#[test]
fn connections_older_than_the_process_have_names() {
    kernel_scenario("older");
}

#[test]
fn connections_within_the_host_have_the_names_of_both_sockets() {
    kernel_scenario("both-ends");
}

#[test]
fn connections_that_use_one_port_again_at_once_have_each_its_own_name() {
    kernel_scenario("reuse");
}

#[test]
fn after_a_storm_of_ends_the_kernel_is_asked_for_all_sockets() {
    kernel_scenario("storm");
}

#[test]
fn connections_that_end_unseen_have_files_within_two_seconds() {
    kernel_scenario("silent");
}

fn scenario(name: &str) {
    scenario_of("live_headers.py", name);
}

fn kernel_scenario(name: &str) {
    scenario_of("live_kernel.py", name);
}

fn scenario_of(script: &str, name: &str) {
    let long = if std::env::var("FLOWARC_LONG").as_deref() == Ok("1") { "--long" } else { "" };
    let arguments = [support::process::binary(), name, long];
    run(name, script, if long.is_empty() { &arguments[..2] } else { &arguments });
}

fn run(test: &str, script: &str, arguments: &[&str]) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !privileged(test) {
        return;
    }
    let script = format!("{}/tests/lab/{script}", env!("CARGO_MANIFEST_DIR"));
    let out = Command::new("python3").arg(script).args(arguments).output().expect("python3 is installed");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && !said.contains("SKIPPED"), "{said}");
    println!("{said}");
}
