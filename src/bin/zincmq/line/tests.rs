//! What lines look like.

use serde_json::json;

use super::*;

fn as_json(line: &Line<'_>) -> serde_json::Value {
    serde_json::to_value(line).unwrap()
}

fn as_plain_text(line: &Line<'_>) -> String {
    let mut text = Vec::new();
    line.write_text(&mut text, Paint(false)).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_plain_message_has_no_more_than_the_usual_fields() {
    let message = Message::new("t", "hé\n").unwrap();
    let line = Line::Message(MessageLine::from(&message));
    let nil = EndpointId::NIL.to_string();
    assert_eq!(
        as_json(&line),
        json!({ "event": "message", "topic": "t", "origin": nil, "origin_seq": 0, "epoch": 0, "seq": 0, "payload": "hé\n" })
    );
}

#[test]
fn what_is_no_text_comes_in_base64_and_unusual_kinds_are_named() {
    let mut headers = zincmq::Headers::default();
    headers.insert("trace", [0xff]).unwrap();
    let message = Message::new("t", vec![0xff, 0])
        .unwrap()
        .with_kind(MessageKind::FullDocument)
        .with_codec(Codec::MessagePack)
        .with_headers(headers);
    let json = as_json(&Line::Message(MessageLine::from(&message)));
    assert_eq!(json["payload"], "/wA=");
    assert_eq!(json["encoding"], "base64");
    assert_eq!(json["kind"], "full-document");
    assert_eq!(json["codec"], "messagepack");
    assert_eq!(json["headers"], json!([{ "name": "trace", "value": "/w==", "encoding": "base64" }]));
}

#[test]
fn what_peers_say_cannot_control_the_terminal() {
    let message = Message::new("t", "\x1b[2Jgone\r\u{9b}1m\tok").unwrap();
    let text = as_plain_text(&Line::Message(MessageLine::from(&message)));
    assert!(text.ends_with("\\u{1b}[2Jgone\\r\\u{9b}1m\tok"), "{text:?}");
    let refused = Line::Disconnected { reason: "\x07".to_owned() };
    assert!(!as_plain_text(&refused).contains('\x07'));
}

#[test]
fn done_tells_first_and_last_or_null() {
    let at = |seq| Some(Position { epoch: 7, seq });
    let line = Line::Done { sent: 2, first: at(1), last: at(2) };
    assert_eq!(
        as_json(&line),
        json!({ "event": "done", "sent": 2, "first": { "epoch": 7, "seq": 1 }, "last": { "epoch": 7, "seq": 2 } })
    );
    assert_eq!(as_plain_text(&line), "2 messages sent, all in order: positions 7/1 to 7/2");
    let empty = Line::Done { sent: 0, first: None, last: None };
    assert_eq!(as_json(&empty), json!({ "event": "done", "sent": 0, "first": null, "last": null }));
}

#[test]
fn an_eviction_tells_why_and_how_far_it_was() {
    let evicted = |text: &str| {
        Line::Evicted(EvictedLine {
            id: EndpointId::NIL,
            reason: "messages",
            lag_messages: 1001,
            lag_bytes: 20_000,
            lag_age_ms: 15,
            position: Position { epoch: 7, seq: 3 },
            retry_after_ms: 1000,
            text: text.to_owned(),
        })
    };
    let nil = EndpointId::NIL.to_string();
    let mut json = json!({
        "event": "evicted", "id": nil, "reason": "messages", "lag_messages": 1001, "lag_bytes": 20_000,
        "lag_age_ms": 15, "position": { "epoch": 7, "seq": 3 }, "retry_after_ms": 1000,
    });
    assert_eq!(as_json(&evicted("")), json);
    let text = format!(
        "evicted {nil} (messages): 1,001 messages, 20,000 bytes and 15 ms behind, handled up to 7/3; may come back in 1000 ms"
    );
    assert_eq!(as_plain_text(&evicted("")), text);
    json["text"] = "go\n".into();
    assert_eq!(as_json(&evicted("go\n")), json);
    assert_eq!(as_plain_text(&evicted("go\n")), text + ": go\\n");
}

#[test]
fn skipped_messages_and_missed_events_are_told_apart() {
    let (lagged, missed) = (Line::Lagged { missed: 2 }, Line::EventsMissed { missed: 1 });
    assert_eq!(as_json(&lagged), json!({ "event": "lagged", "missed": 2 }));
    assert_eq!(as_plain_text(&lagged), "2 messages skipped: newer ones of the same topics follow");
    assert_eq!(as_json(&missed), json!({ "event": "events_missed", "missed": 1 }));
    assert_eq!(as_plain_text(&missed), "1 event not shown: too fast to print");
}

#[test]
fn closed_mentions_trouble_only_where_there_was_some() {
    let quiet = Line::Closed(Closed::new(ShutdownReport::default(), Stats::default()));
    assert_eq!(as_plain_text(&quiet), "closed: 0 messages received");
    assert_eq!(as_json(&quiet)["stats"]["malformed_control"], 0);
    let report = ShutdownReport { members: 2, ..ShutdownReport::default() };
    let noisy = Line::Closed(Closed::new(report, Stats::default()));
    assert_eq!(as_plain_text(&noisy), "closed: 0 messages received, 2 members still there");
}
