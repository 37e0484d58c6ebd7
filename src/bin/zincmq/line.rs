//! What is printed, line by line: the same facts as JSON and as text.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use zincmq::document::crdt::Patch;
use zincmq::{
    Address, Codec, EndpointId, Event, Eviction, LeaveReason, Message, MessageKind, Position, RefusalReason,
    Role, ShutdownReport, Stats,
};

use crate::output::{Paint, counted, grouped};

/// One line of output. As JSON, an object whose `event` names the variant.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    Listening { id: EndpointId, address: String, broadcast: String, submit: String },
    MemberJoined { id: EndpointId, role: Role },
    MemberLeft { id: EndpointId, reason: &'static str },
    JoinRefused { id: EndpointId, address: String, code: &'static str, reason: String },
    Joined { id: EndpointId, host: EndpointId, epoch: u64, seq: u64 },
    Message(MessageLine<'a>),
    Reset { after: Option<Position>, resume_at: Position },
    Connected { host: EndpointId, epoch: u64, seq: u64 },
    Disconnected { reason: String },
    Evicted(EvictedLine),
    ConsumerOverrun { consumer: String },
    SubscriberCut { address: String },
    Lagged { missed: u64 },
    EventsMissed { missed: u64 },
    Keeping { store: String, documents: usize },
    StoreFailed { reason: String },
    Change(ChangeLine),
    Edited { document: &'a str, updates: u64 },
    Text { document: &'a str, text: &'a str },
    Document { name: String, kind: String, size: u64 },
    Done { sent: u64, first: Option<Position>, last: Option<Position> },
    Closed(Closed),
}

/// The end of an endpoint: what was left, and what was counted.
#[derive(Debug, Serialize)]
pub(crate) struct Closed {
    unsent: usize,
    unknown: u64,
    members: usize,
    stats: Stats,
}

impl Closed {
    pub(crate) fn new(report: ShutdownReport, stats: Stats) -> Self {
        Self { unsent: report.unsent, unknown: report.unknown, members: report.members, stats }
    }
}

/// What has become of a text: a list of patches by somebody, or all of it.
#[derive(Debug, Serialize)]
pub(crate) struct ChangeLine {
    origin: Option<EndpointId>,
    /// Position, code points that went, what came.
    #[serde(skip_serializing_if = "Option::is_none")]
    patches: Option<Vec<(usize, usize, String)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl ChangeLine {
    pub(crate) fn whole(text: String) -> Self {
        Self { origin: None, patches: None, text: Some(text) }
    }

    pub(crate) fn by(origin: EndpointId, patches: impl IntoIterator<Item = Patch>) -> Self {
        let patches = patches.into_iter().map(|patch| (patch.position, patch.deleted, patch.inserted));
        Self { origin: Some(origin), patches: Some(patches.collect()), text: None }
    }

    fn write_text(&self, out: &mut impl Write, paint: Paint) -> std::io::Result<()> {
        if let Some(text) = &self.text {
            return write!(out, "{} {text:?}", paint.bold("text   "));
        }
        write!(out, "{}", paint.good("changed"))?;
        for (position, deleted, inserted) in self.patches.iter().flatten() {
            write!(out, " [{position}, {deleted}, {inserted:?}]")?;
        }
        match self.origin {
            Some(origin) => write!(out, "  {}", paint.dim(&format!("by {origin}"))),
            None => Ok(()),
        }
    }
}

/// A member that was sent away, or that fell behind by itself: the host tells it, and the member of itself.
#[derive(Debug, Serialize)]
pub(crate) struct EvictedLine {
    id: EndpointId,
    reason: &'static str,
    lag_messages: u64,
    lag_bytes: u64,
    lag_age_ms: u128,
    /// Up to where it had handled.
    position: Position,
    retry_after_ms: u128,
    /// What the host's application said to it, if anything.
    #[serde(skip_serializing_if = "String::is_empty")]
    text: String,
}

impl EvictedLine {
    pub(crate) fn new(id: EndpointId, eviction: Eviction) -> Self {
        Self {
            id,
            reason: eviction.reason.as_str(),
            lag_messages: eviction.lag.messages,
            lag_bytes: eviction.lag.bytes,
            lag_age_ms: eviction.lag.age.as_millis(),
            position: eviction.position,
            retry_after_ms: eviction.retry_after.as_millis(),
            text: eviction.text,
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} ({}): {}, {} and {} ms behind, handled up to {}; may come back in {} ms",
            self.id,
            self.reason,
            counted(self.lag_messages, "message"),
            counted(self.lag_bytes, "byte"),
            self.lag_age_ms,
            self.position,
            self.retry_after_ms
        );
        if !self.text.is_empty() {
            text += &format!(": {}", printable(&self.text));
        }
        text
    }
}

/// A received message. The kind and the codec are there only where they are not the usual ones.
#[derive(Debug, Serialize)]
pub(crate) struct MessageLine<'a> {
    topic: &'a str,
    origin: EndpointId,
    origin_seq: u64,
    epoch: u64,
    seq: u64,
    payload: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    codec: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderLine<'a>>,
}

#[derive(Debug, Serialize)]
struct HeaderLine<'a> {
    name: &'a str,
    value: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

impl<'a> From<&'a Message> for MessageLine<'a> {
    fn from(message: &'a Message) -> Self {
        let (payload, encoding) = as_text(message.payload());
        // Received messages have a position.
        let position = message.position().unwrap_or(Position { epoch: 0, seq: 0 });
        Self {
            topic: message.topic().as_str(),
            origin: message.origin(),
            origin_seq: message.origin_seq(),
            epoch: position.epoch,
            seq: position.seq,
            payload,
            encoding,
            kind: kind(message.kind()),
            codec: codec(message.codec()),
            headers: message
                .headers()
                .iter()
                .map(|(name, value)| {
                    let (value, encoding) = as_text(value);
                    HeaderLine { name, value, encoding }
                })
                .collect(),
        }
    }
}

/// Bytes as the text they are, or else in Base64.
fn as_text(bytes: &[u8]) -> (Cow<'_, str>, Option<&'static str>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.into(), None),
        Err(_) => (BASE64.encode(bytes).into(), Some("base64")),
    }
}

fn kind(kind: MessageKind) -> Option<&'static str> {
    Some(match kind {
        MessageKind::Data => return None,
        MessageKind::FullDocument => "full-document",
        MessageKind::DocumentFragment => "document-fragment",
        MessageKind::FullDocumentRequest => "full-document-request",
        _ => "other",
    })
}

fn codec(codec: Codec) -> Option<&'static str> {
    Some(match codec {
        Codec::Raw => return None,
        Codec::MessagePack => "messagepack",
        Codec::Json => "json",
        Codec::Protobuf => "protobuf",
        _ => "other",
    })
}

/// The line an event makes, if it is one that is printed. Holes are told by the stream of messages, where they have their place.
pub(crate) fn for_event(event: Event) -> Option<Line<'static>> {
    Some(match event {
        Event::Connected { host, position, .. } => {
            Line::Connected { host, epoch: position.epoch, seq: position.seq }
        }
        Event::Disconnected { reason } => Line::Disconnected { reason },
        Event::MemberJoined { id, role } => Line::MemberJoined { id, role },
        Event::MemberLeft { id, reason } => Line::MemberLeft { id, reason: leave_reason(reason) },
        Event::JoinRefused { id, address, reason } => Line::JoinRefused {
            id,
            address: address.to_string(),
            code: refusal_code(&reason),
            reason: reason.to_string(),
        },
        Event::Evicted { id, eviction } => Line::Evicted(EvictedLine::new(id, eviction)),
        Event::ConsumerOverrun { consumer } => Line::ConsumerOverrun { consumer },
        Event::SubscriberCut { address } => Line::SubscriberCut { address: address.to_string() },
        Event::Lagged(missed) => Line::EventsMissed { missed },
        _ => return None,
    })
}

fn leave_reason(reason: LeaveReason) -> &'static str {
    match reason {
        LeaveReason::Left => "left",
        LeaveReason::Disconnected => "disconnected",
        LeaveReason::Replaced => "replaced",
        LeaveReason::Violation => "violation",
        LeaveReason::Unresponsive => "unresponsive",
        LeaveReason::Evicted => "evicted",
        _ => "unknown",
    }
}

fn refusal_code(reason: &RefusalReason) -> &'static str {
    match reason {
        RefusalReason::WrongCluster(_) => "wrong_cluster",
        RefusalReason::WrongVersion(_) => "wrong_version",
        RefusalReason::Unauthorized(_) => "unauthorized",
        RefusalReason::DuplicateId(_) => "duplicate_id",
        RefusalReason::Full(_) => "full",
        RefusalReason::Closing(_) => "closing",
        RefusalReason::Quarantined(_) => "quarantined",
        RefusalReason::Malformed(_) => "malformed",
        _ => "other",
    }
}

impl Line<'_> {
    /// Writes the line for people, without a line break. What peers say is made safe for a terminal.
    pub(crate) fn write_text(&self, out: &mut impl Write, paint: Paint) -> std::io::Result<()> {
        match self {
            Self::Listening { id, address, broadcast, submit } => {
                writeln!(out, "{} {}", paint.bold("listening on"), paint.bold(address))?;
                writeln!(out, "  publishing on {broadcast}, taking messages on {submit}")?;
                write!(out, "{}", paint.dim(&format!("  id {id}; ctrl-c ends")))
            }
            Self::MemberJoined { id, role } => write!(out, "{} {id} ({role})", paint.good("joined ")),
            Self::MemberLeft { id, reason } => write!(out, "{} {id} ({reason})", paint.warn("left   ")),
            Self::JoinRefused { id, address, reason, .. } => {
                write!(out, "{} {id} from {address}: {}", paint.warn("refused"), printable(reason))
            }
            Self::Joined { id, host, epoch, seq } => {
                let text = format!("joined host {host} as {id}, at message {seq} of epoch {epoch}");
                write!(out, "{}", paint.dim(&text))
            }
            Self::Message(message) => message.write_text(out, paint),
            Self::Reset { after, resume_at } => {
                let after = after.map_or_else(|| "the beginning".to_owned(), |position| position.to_string());
                let text = format!("messages were missed after {after}; going on at {resume_at}");
                write!(out, "{}", paint.warn(&text))
            }
            Self::Connected { epoch, seq, .. } => {
                write!(out, "{}", paint.good(&format!("connected again, at message {seq} of epoch {epoch}")))
            }
            Self::Disconnected { reason } => {
                let text = format!("disconnected ({}); waiting for the host to come back", printable(reason));
                write!(out, "{}", paint.warn(&text))
            }
            Self::Evicted(evicted) => write!(out, "{} {}", paint.warn("evicted"), evicted.text()),
            Self::ConsumerOverrun { consumer } => {
                let text = format!("{consumer}: fell too far behind; what waited was dropped");
                write!(out, "{}", paint.warn(&text))
            }
            Self::SubscriberCut { address } => {
                let text = format!("subscriber at {address} took too little, and was cut off");
                write!(out, "{}", paint.warn(&text))
            }
            Self::Lagged { missed } => {
                let text =
                    format!("{} skipped: newer ones of the same topics follow", counted(*missed, "message"));
                write!(out, "{}", paint.warn(&text))
            }
            Self::EventsMissed { missed } => {
                write!(
                    out,
                    "{}",
                    paint.warn(&format!("{} not shown: too fast to print", counted(*missed, "event")))
                )
            }
            Self::Keeping { store, documents } => {
                let documents = counted(*documents as u64, "document");
                write!(out, "{}", paint.dim(&format!("  keeping documents in {store}: {documents}")))
            }
            Self::StoreFailed { reason } => {
                let text = format!("documents are kept in memory only from now on: {}", printable(reason));
                write!(out, "{}", paint.warn(&text))
            }
            Self::Change(change) => change.write_text(out, paint),
            Self::Edited { updates: 0, .. } => write!(out, "nothing to change"),
            Self::Edited { document, updates } => {
                write!(out, "{} to {}", counted(*updates, "change"), printable(document))
            }
            Self::Text { text, .. } => write!(out, "{}", printable(text)),
            Self::Document { name, kind, size } => write!(
                out,
                "{}  {}",
                paint.bold(&printable(name)),
                paint.dim(&format!("({}, {})", printable(kind), counted(*size, "byte")))
            ),
            Self::Done { sent: 0, .. } => write!(out, "nothing to send"),
            Self::Done { sent, first, last } => {
                write!(out, "{} sent, all in order", counted(*sent, "message"))?;
                match (first, last) {
                    (Some(first), Some(last)) => write!(out, ": positions {first} to {last}"),
                    _ => Ok(()),
                }
            }
            Self::Closed(closed) => write!(out, "{}", paint.dim(&closed.text())),
        }
    }
}

impl Closed {
    fn text(&self) -> String {
        let stats = &self.stats;
        let mut text = format!("closed: {} received", counted(stats.received, "message"));
        let malformed = stats.malformed_control + stats.malformed_submits + stats.malformed_broadcasts;
        let troubles = [
            (stats.evictions, "evictions"),
            (stats.conflated, "skipped for newer ones"),
            (stats.lost_windows, "windows lost"),
            (malformed, "malformed, dropped"),
            (stats.transport_drops, "dropped on full queues"),
            (stats.rejected_connections, "unauthenticated connections closed"),
            // Not those of ended sessions: their members send them again.
            (stats.forbidden_submits, "submits refused"),
            (self.unsent as u64, "not sent"),
            (self.unknown, "of unknown fate"),
            (self.members as u64, "members still there"),
        ];
        for (count, what) in troubles.into_iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {} {what}", grouped(count));
        }
        text
    }
}

impl MessageLine<'_> {
    fn write_text(&self, out: &mut impl Write, paint: Paint) -> std::io::Result<()> {
        let Self { topic, seq, payload, encoding, kind, codec, .. } = self;
        write!(out, "{} {}  {}", paint.dim(&format!("{seq:>6}")), paint.bold(topic), printable(payload))?;
        let notes: Vec<&str> = [*encoding, *codec, *kind].into_iter().flatten().collect();
        if !notes.is_empty() {
            write!(out, "  {}", paint.dim(&format!("({})", notes.join(", "))))?;
        }
        Ok(())
    }
}

/// Text without control characters, which could do anything to a terminal.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() && c != '\t') {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe.into()
}

/// The line about a host that listens.
pub(crate) fn listening(host: &zincmq::Host, id: EndpointId) -> Line<'static> {
    let text = |address: &Address| address.to_string();
    let bound = host.bound();
    Line::Listening {
        id,
        address: text(host.address()),
        broadcast: text(&bound.broadcast),
        submit: text(&bound.submit),
    }
}

#[cfg(test)]
#[path = "line/tests.rs"]
mod tests;
