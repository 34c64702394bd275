//! Any bytes from an event socket are split into lines and events; how they were cut into reads changes nothing.

#![no_main]

use flowarc::identity::eventsocket::convert;
use flowarc_eventsocket::{BadKind, Decoder, Event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(whole, decode(bytes, usize::from(first).max(1)));
    for event in whole.into_iter().flatten() {
        // What is converted becomes a file name and a day's folder: writing the event again must give the same.
        let again = Event::decode(event.encode().as_bytes()).expect("an encoded event is an event");
        assert_eq!(convert(&again).ok(), convert(&event).ok());
    }
});

fn decode(bytes: &[u8], step: usize) -> Vec<Result<Event, BadKind>> {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for chunk in bytes.chunks(step) {
        decoder.handle_bytes(chunk);
        while let Some(event) = decoder.poll() {
            events.push(event.map_err(|bad| bad.kind));
        }
    }
    events.extend(decoder.finish().map(|event| event.map_err(|bad| bad.kind)));
    events
}
