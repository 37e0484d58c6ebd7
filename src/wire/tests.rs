use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::control::MAX_ORIGIN_SEQ;
use super::*;
use crate::flow::{EvictReason, Eviction, HighWaterMark, Lag};
use crate::id::{EndpointId, SessionToken};
use crate::message::{Codec, Headers, Message, MessageKind, Position, Topic};
use crate::role::Role;

const MAX: usize = 1 << 20;

fn topic() -> impl Strategy<Value = Topic> {
    "[a-c]{1,3}|[a-zé.]{1,60}".prop_map(|text| text.parse().unwrap())
}

fn id() -> impl Strategy<Value = EndpointId> {
    (1_u8..4).prop_map(|n| EndpointId::from_bytes([n; 16]))
}

fn message() -> impl Strategy<Value = Message> {
    let header = ("[a-z]{1,9}", vec(any::<u8>(), 0..40));
    (topic(), 0_u8..4, 0_u8..4, vec(header, 0..4), vec(any::<u8>(), 0..300)).prop_map(
        |(topic, kind, codec, pairs, payload)| {
            let mut headers = Headers::default();
            for (name, value) in pairs {
                headers.insert(&name, value).unwrap();
            }
            Message::new(topic, payload)
                .unwrap()
                .with_kind(MessageKind::from_bits(kind).unwrap())
                .with_codec(Codec::from_bits(codec).unwrap())
                .with_headers(headers)
        },
    )
}

/// Puts messages through a batch into windows, as member and host do; returns the windows, decoded.
fn through_the_host(messages: &[Message], origin: EndpointId, first_origin_seq: u64) -> Vec<Window> {
    let mut windows = Vec::new();
    let (mut number, mut seq) = (1, 1);
    let mut builder = WindowBuilder::new();
    let mut rest = messages;
    let mut origin_seq = first_origin_seq;
    while !rest.is_empty() {
        let mut batch = BatchBuilder::new(origin_seq);
        let taken = rest.iter().take_while(|message| batch.push(message)).count();
        rest = &rest[taken..];
        let batch = Batch::decode(batch.finish(), MAX).unwrap();
        assert_eq!((batch.first_origin_seq, batch.len()), (origin_seq, taken));
        for (place, tail) in batch.records_in(0..batch.len()) {
            let topic = &batch.topics[usize::from(place)];
            if !builder.push(topic, origin, origin_seq, tail) {
                let full = std::mem::replace(&mut builder, WindowBuilder::new());
                let count = u64::from(full.count());
                windows.push(full.finish(9, number, seq));
                (number, seq) = (number + 1, seq + count);
                assert!(builder.push(topic, origin, origin_seq, tail), "the first record always goes in");
            }
            origin_seq += 1;
        }
    }
    if !builder.is_empty() {
        windows.push(builder.finish(9, number, seq));
    }
    windows.iter().map(|window| Window::decode(&window.body, MAX).unwrap()).collect()
}

proptest! {
    #[test]
    fn messages_survive_batch_and_window(messages in vec(message(), 1..40), origin in id(), first in 1_u64..1000) {
        let windows = through_the_host(&messages, origin, first);
        let received: Vec<&Message> = windows.iter().flat_map(|window| &window.messages).collect();
        prop_assert_eq!(received.len(), messages.len());
        for (i, (sent, received)) in messages.iter().zip(received).enumerate() {
            let mut expected = sent.clone();
            expected.origin = origin;
            expected.origin_seq = first + i as u64;
            expected.position = Some(Position { epoch: 9, seq: 1 + i as u64 });
            prop_assert_eq!(received, &expected);
        }
    }

    #[test]
    fn parts_of_topics_and_the_index_make_the_window_again(
        messages in vec((message(), id(), 1_u64..3), 1..40),
        unwanted in "[a-c]|-",
    ) {
        let mut builder = WindowBuilder::new();
        let mut next = std::collections::BTreeMap::new();
        for (message, origin, step) in &messages {
            let mut tail = BytesMut::new();
            record::put_tail(&mut tail, message);
            let origin_seq = next.entry(*origin).or_insert(5_u64);
            assert!(builder.push(&message.topic, *origin, *origin_seq, &tail));
            *origin_seq += step;
        }
        let body = builder.finish(3, 4, 100).body;
        let mut window = Window::decode(&body, MAX).unwrap();
        let mut lanes = lanes(&body, |topic| !topic.starts_with(&unwanted)).unwrap();
        let (lane, body) = lanes.pop().unwrap();
        prop_assert_eq!(Lane::decode(&lane), Ok(Lane::Index));
        for wanted in ["", "a", "b", "c", "-"] {
            let index = Index::decode(&body, |topic| topic.starts_with(wanted)).unwrap();
            prop_assert_eq!((index.epoch, index.number, index.first_seq, index.last_seq), (3, 4, 100, window.last_seq()));
            let of_window = window.messages.iter().filter(|message| message.topic.as_str().starts_with(wanted));
            prop_assert_eq!(of_window.count(), index.wanted);
        }
        let mut again = Vec::new();
        for (lane, body) in lanes {
            let Ok(Lane::Topic(topic)) = Lane::decode(&lane) else { panic!("{lane:?}") };
            let part = TopicPart::decode(&topic, &body, MAX).unwrap();
            prop_assert_eq!((part.epoch, part.number), (3, 4));
            again.extend(part.messages);
        }
        again.sort_by_key(|message| message.position);
        window.messages.retain(|message| !message.topic.as_str().starts_with(&unwanted));
        prop_assert_eq!(again, window.messages);
    }

    #[test]
    fn control_messages_round_trip(child in child_message(), parent in parent_message()) {
        prop_assert_eq!(ChildMessage::decode(&child.encode()).unwrap(), child);
        prop_assert_eq!(ParentMessage::decode(&parent.encode()).unwrap(), parent);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..200), kind in 0_u8..0x45, opened: bool) {
        let mut frame = BytesMut::new();
        if opened {
            put_prefix(&mut frame, kind);
        }
        frame.extend_from_slice(&bytes);
        decode_everything(&frame.freeze());
    }

    #[test]
    fn a_damaged_window_is_refused_or_still_in_bounds(
        messages in vec(message(), 1..10), at in any::<prop::sample::Index>(), flip in 1_u8..=255, cut in any::<prop::sample::Index>(),
    ) {
        let mut builder = WindowBuilder::new();
        for (i, message) in messages.iter().enumerate() {
            let mut tail = BytesMut::new();
            record::put_tail(&mut tail, message);
            assert!(builder.push(&message.topic, EndpointId::from_bytes([1; 16]), 1 + i as u64, &tail));
        }
        let whole = builder.finish(1, 1, 1).body;
        let truncated = whole.slice(..cut.index(whole.len()));
        prop_assert!(Window::decode(&truncated, MAX).is_err(), "a window without its end");
        let mut damaged = whole.to_vec();
        let index = at.index(damaged.len());
        damaged[index] ^= flip;
        if let Ok(window) = Window::decode(&Bytes::from(damaged), MAX) {
            prop_assert!(!window.messages.is_empty());
            prop_assert!(window.last_seq() >= window.first_seq);
        }
    }
}

fn child_message() -> impl Strategy<Value = ChildMessage> {
    prop_oneof![
        (
            "[a-z]{1,20}",
            id(),
            any::<Option<[u8; 16]>>(),
            any::<u64>(),
            0_u64..MAX_EPOCH,
            1..=MAX_ORIGIN_SEQ,
            vec(any::<u8>(), 0..99)
        )
            .prop_map(|(cluster, id, resume, incarnation, epoch, next_origin_seq, token)| {
                ChildMessage::Hello(Hello {
                    version: PROTOCOL_VERSION,
                    cluster,
                    id,
                    resume: resume.and_then(SessionToken::from_bytes),
                    incarnation,
                    epoch,
                    first_open: next_origin_seq / 2,
                    next_origin_seq,
                    token: token.into(),
                })
            }),
        (any::<u64>(), vec("[a-z]{0,9}", 0..9))
            .prop_map(|(nonce, prefixes)| ChildMessage::Subscribe { nonce, prefixes }),
        any::<u64>().prop_map(|nonce| ChildMessage::Live { nonce }),
        Just(ChildMessage::Leave),
        (position(), position(), any::<u64>())
            .prop_map(|(stored, handled, confirmed)| ChildMessage::Ack(Ack { stored, handled, confirmed })),
        (1_u64..1 << 60, 0_u64..1 << 60)
            .prop_map(|(first, more)| ChildMessage::Repair { first, last: first + more }),
        any::<u64>().prop_map(|count| ChildMessage::Received { count }),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (0..=MAX_EPOCH, 0_u64..1 << 62).prop_map(|(epoch, seq)| Position { epoch, seq })
}

fn barrier() -> impl Strategy<Value = Barrier> {
    (0..=MAX_EPOCH, 0_u64..1 << 62, 0_u64..1 << 62).prop_map(|(epoch, number, last_seq)| Barrier {
        epoch,
        number,
        last_seq,
    })
}

fn millis() -> impl Strategy<Value = Duration> {
    (1..=u32::MAX).prop_map(|millis| Duration::from_millis(millis.into()))
}

fn terms() -> impl Strategy<Value = Terms> {
    (1_u64.., 1_u64.., millis(), millis(), millis(), vec("[a-z]{0,9}", 0..4)).prop_map(
        |(messages, bytes, age, heartbeat, lease, conflatable)| Terms {
            marks: HighWaterMark::new().messages(messages).bytes(bytes).age(age),
            heartbeat,
            lease,
            conflatable,
        },
    )
}

fn eviction() -> impl Strategy<Value = Eviction> {
    (1_u8..=7, any::<[u64; 2]>(), millis(), position(), millis(), any::<[u8; 16]>(), ".{0,60}").prop_map(
        |(reason, [messages, bytes], age, position, retry_after, resume, text)| Eviction {
            reason: EvictReason::from_byte(reason).unwrap(),
            lag: Lag { messages, bytes, age },
            position,
            retry_after,
            text,
            resume: SessionToken::from_bytes(resume),
        },
    )
}

fn parent_message() -> impl Strategy<Value = ParentMessage> {
    let member =
        || (id(), 0_u8..3).prop_map(|(id, role)| MemberEntry { id, role: Role::from_byte(role).unwrap() });
    let members = || vec(member(), 0..9);
    prop_oneof![
        (any::<[u8; 15]>(), id(), barrier(), terms(), any::<u32>(), ":[0-9]{1,5}", "[a-z.]{0,20}", members())
            .prop_map(|(token, host, at, terms, max_message, broadcast, submit, members)| {
                let mut session = [1; 16];
                session[1..].copy_from_slice(&token);
                ParentMessage::Welcome(Welcome {
                    session: SessionToken::from_bytes(session).unwrap(),
                    host,
                    incarnation: at.number / 3,
                    role: Role::Member,
                    at,
                    origin: [OriginState::New, OriginState::Known, OriginState::Forgotten]
                        [at.number as usize % 3],
                    last_origin_seq: at.last_seq,
                    terms,
                    max_message,
                    broadcast,
                    submit,
                    members,
                })
            }),
        (".{0,60}", millis()).prop_map(|(reason, retry_after)| {
            ParentMessage::Refused(Refusal { code: RefusalCode::Quarantined, retry_after, reason })
        }),
        barrier().prop_map(ParentMessage::Missed),
        eviction().prop_map(ParentMessage::Evicted),
        (0..=MAX_ORIGIN_SEQ).prop_map(|from| ParentMessage::Resend { from }),
        any::<bool>().prop_map(|paced| ParentMessage::Pulse { paced }),
        vec((any::<u64>(), 1_u64..1 << 60, 1_u64..1 << 60, 1_u32..), 0..9).prop_map(|runs| {
            let run = |(epoch, first_origin_seq, first_seq, count)| Ordered {
                epoch,
                first_origin_seq,
                first_seq,
                count,
            };
            ParentMessage::Ordered(runs.into_iter().map(run).collect())
        }),
        (members(), vec(id(), 0..9)).prop_map(|(joined, left)| ParentMessage::Membership { joined, left }),
        any::<[u64; 2]>().prop_map(|[epoch, number]| ParentMessage::Closing {
            reason: CloseReason::Shutdown,
            epoch,
            number
        }),
        any::<u64>().prop_map(|count| ParentMessage::Received { count }),
    ]
}

#[test]
fn a_topic_named_by_no_record_or_twice_as_many_records_as_bytes_are_refused() {
    let mut body = BytesMut::new();
    bytes::BufMut::put_u64(&mut body, 1);
    bytes::BufMut::put_u16(&mut body, 1024);
    bytes::BufMut::put_u16(&mut body, 1);
    body.extend_from_slice(b"\x01t");
    // 1,024 records announced, none there: refused before room for them is made.
    assert_eq!(Batch::decode(body.freeze(), MAX).unwrap_err(), Malformed("truncated"));
}

#[test]
fn a_payload_over_the_limit_is_refused_whole() {
    let mut batch = BatchBuilder::new(1);
    assert!(batch.push(&Message::new("t", vec![0; 100]).unwrap()));
    let body = batch.finish();
    assert!(Batch::decode(body.clone(), 100).is_ok());
    assert_eq!(Batch::decode(body, 99).unwrap_err(), Malformed("payload over the limit"));
}

#[test]
fn an_origin_that_jumps_within_a_window_keeps_its_numbers() {
    let origin = EndpointId::from_bytes([1; 16]);
    let topic: Topic = "t".parse().unwrap();
    let mut tail = BytesMut::new();
    record::put_tail(&mut tail, &Message::new("t", "x").unwrap());
    let mut builder = WindowBuilder::new();
    for origin_seq in [1, 2, 7, 8] {
        assert!(builder.push(&topic, origin, origin_seq, &tail));
    }
    let window = Window::decode(&builder.finish(1, 1, 1).body, MAX).unwrap();
    assert_eq!(window.messages.iter().map(Message::origin_seq).collect::<Vec<_>>(), [1, 2, 7, 8]);
}

#[test]
fn windows_and_batches_close_at_their_limits() {
    let small = Message::new("t", "").unwrap();
    let mut batch = BatchBuilder::new(1);
    let count = (0..2000).take_while(|_| batch.push(&small)).count();
    assert_eq!(count, MAX_RECORDS);
    let kilobyte = Message::new("t", vec![0; 1024]).unwrap();
    let mut batch = BatchBuilder::new(1);
    while batch.push(&kilobyte) {}
    let body = batch.finish();
    assert!(body.len() <= TARGET_BYTES && body.len() > TARGET_BYTES - 1100, "{}", body.len());
}

#[test]
fn only_a_message_that_travels_alone_makes_a_large_batch() {
    let mut alone = BatchBuilder::new(1);
    assert!(alone.push(&Message::new("t", vec![0; 2 * TARGET_BYTES]).unwrap()));
    let alone = alone.finish();
    assert!(Batch::decode(alone.clone(), MAX).is_ok());
    // The same record twice: its count follows the origin_seq.
    let mut two = BytesMut::from(&alone[..]);
    two[9] = 2;
    two.extend_from_slice(&alone[8 + 2 + 2 + 2..]);
    assert_eq!(
        Batch::decode(two.freeze(), MAX).unwrap_err(),
        Malformed("a batch above 64 KiB holds one record")
    );
}

#[test]
fn lanes_are_told_by_their_first_byte() {
    let lanes = [Lane::Whole, Lane::Index, Lane::Topic("a.b".parse().unwrap()), Lane::Barrier(Nonce(0xfeed))];
    for lane in lanes {
        assert_eq!(Lane::decode(&lane.encode()), Ok(lane));
    }
    assert_eq!(Lane::Barrier(Nonce(0xfeed)).encode(), "B000000000000feed");
    for wrong in ["", "X", "Wx", "Ix", "T", "B12", "Bzzzzzzzzzzzzzzzz", "T\n"] {
        assert!(Lane::decode(&Bytes::from_static(wrong.as_bytes())).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_hello_of_another_version_is_understood_as_far_as_its_version() {
    let mut frame = BytesMut::new();
    put_prefix(&mut frame, kind::HELLO);
    frame.extend_from_slice(&[0, 99, 1, 2, 3]);
    let Ok(ChildMessage::Hello(hello)) = ChildMessage::decode(&frame.freeze()) else { panic!("a hello") };
    assert_eq!(hello.version, 99);
}

#[test]
fn long_reasons_are_cut_at_a_character() {
    let reason = "é".repeat(200);
    let retry_after = Duration::ZERO;
    let message = ParentMessage::Refused(Refusal { code: RefusalCode::Unauthorized, retry_after, reason });
    let Ok(ParentMessage::Refused(Refusal { reason, .. })) = ParentMessage::decode(&message.encode()) else {
        panic!("a refusal")
    };
    assert_eq!(reason, "é".repeat(127));
}

#[test]
fn numbers_that_leave_no_room_to_count_on_are_refused() {
    let hello = |next_origin_seq, epoch| {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster: "x".into(),
            id: EndpointId::from_bytes([1; 16]),
            resume: None,
            incarnation: 0,
            epoch,
            first_open: 0,
            next_origin_seq,
            token: Bytes::new(),
        };
        ChildMessage::decode(&ChildMessage::Hello(hello).encode())
    };
    assert!(hello(MAX_ORIGIN_SEQ, MAX_EPOCH).is_ok());
    // One message of such a member makes every window it shares with others malformed.
    assert!(hello(u64::MAX - 1, 0).is_err());
    assert!(hello(MAX_ORIGIN_SEQ + 1, 0).is_err());
    assert!(hello(1, MAX_EPOCH + 1).is_err());
    // No host would take a hello that repeats it.
    let barrier = Barrier { epoch: MAX_EPOCH + 1, number: 1, last_seq: 1 };
    assert!(Barrier::decode(&barrier.encode()).is_err());
    let topic = Topic::try_from("t").unwrap();
    let window = |epoch| {
        let mut builder = WindowBuilder::new();
        assert!(builder.push(&topic, EndpointId::from_bytes([1; 16]), 1, &[0, 0, 0]));
        builder.finish(epoch, 1, 1).body
    };
    assert!(Window::decode(&window(MAX_EPOCH), 0).is_ok());
    assert!(Window::decode(&window(MAX_EPOCH + 1), 0).is_err());
    let index = |epoch| Index::decode(&lanes(&window(epoch), |_| false).unwrap()[0].1, |_| true);
    assert!(index(MAX_EPOCH).is_ok());
    assert!(index(MAX_EPOCH + 1).is_err());
}

#[test]
fn what_is_refused_stands_among_places_and_has_none() {
    let place = Ordered { epoch: 7, first_origin_seq: 1, first_seq: 5, count: 2 };
    let message = ParentMessage::Ordered(vec![place, Ordered::refused(3, 2)]);
    assert_eq!(ParentMessage::decode(&message.encode()), Ok(message));
    for (epoch, first_seq) in [(7, 0), (1, 0)] {
        let run = Ordered { epoch, first_origin_seq: 3, first_seq, count: 1 };
        assert!(ParentMessage::decode(&ParentMessage::Ordered(vec![run]).encode()).is_err());
    }
    let mut run = Ordered::refused(3, 2);
    assert!(!run.extend(&Ordered { epoch: 0, first_origin_seq: 5, first_seq: 2, count: 1 }));
    assert!(run.extend(&Ordered::refused(5, 3)));
    run.skip(4);
    assert_eq!(run, Ordered::refused(7, 1));
    let mut place = place;
    assert!(!place.extend(&Ordered::refused(3, 1)));
    place.skip(1);
    assert_eq!(place, Ordered { epoch: 7, first_origin_seq: 2, first_seq: 6, count: 1 });
}
