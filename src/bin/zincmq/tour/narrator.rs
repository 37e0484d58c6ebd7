//! The voice of the tour: text for people, or one JSON object per step.

use serde::Serialize;
use zincmq::EndpointId;

use crate::failure::Failure;
use crate::output::{Output, Paint};

/// What a step has shown, in numbers. Printed with `--json` only; people get sentences.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Fact {
    Started {
        address: String,
        host: EndpointId,
        members: Vec<EndpointId>,
        join_ms: Vec<f64>,
    },
    Echo {
        round_trips: u64,
        median_us: f64,
        hidden_by_default: bool,
    },
    Order {
        messages: u64,
        senders: u64,
        topics: u64,
        seconds: f64,
        messages_per_second: f64,
        orders_compared: u64,
        equal: bool,
    },
    Handlers {
        sent: u64,
        sensor: u64,
        kitchen: u64,
        alarm_failures: u64,
        subscribed: u64,
    },
    Document {
        writers: u64,
        updates: u64,
        length: u64,
        bytes_at_host: u64,
        seconds: f64,
        equal: bool,
    },
    Snail {
        mark: u64,
        evicted: &'static str,
        lag_messages: u64,
        retry_after_ms: u128,
        sent: u64,
        received_by_all: u64,
        evictions: u64,
        lost_windows: u64,
    },
    Left {
        id: EndpointId,
        told: u64,
    },
    Closed {
        unsent: u64,
        unknown: u64,
        members: u64,
        lost_windows: u64,
        malformed: u64,
        ordered: u64,
    },
    Done {
        seconds: f64,
    },
}

#[derive(Debug)]
pub(super) struct Narrator {
    output: Output,
    step: u32,
}

impl Narrator {
    pub(super) fn new(output: Output) -> Self {
        Self { output, step: 0 }
    }

    pub(super) fn paint(&self) -> Paint {
        self.output.paint()
    }

    pub(super) fn opening(&mut self) -> Result<(), Failure> {
        let title = self.paint().bold("A tour of zincmq");
        self.text(&format!("{title}: a host and three clients, in this process, over real TCP."))
    }

    /// Begins a step.
    pub(super) fn step(&mut self, title: &str) -> Result<(), Failure> {
        self.step += 1;
        let title = self.paint().bold(&format!("{}. {title}", self.step));
        self.text(&format!("\n{title}"))
    }

    /// Says what is going on.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.text(&wrapped("   ", text))
    }

    /// Says what was checked and found true.
    pub(super) fn holds(&mut self, text: &str) -> Result<(), Failure> {
        let mark = self.paint().good("ok");
        self.text(&wrapped(&format!("   {mark} "), text))
    }

    /// Tells a step's numbers.
    pub(super) fn fact(&mut self, fact: &Fact) -> Result<(), Failure> {
        if !self.output.is_json() {
            return Ok(());
        }
        self.output.object(fact)?;
        self.output.flush()
    }

    pub(super) fn closing(&mut self) -> Result<(), Failure> {
        let paint = self.paint();
        self.text(&format!("\n{}", paint.good("Everything said above was checked while it ran.")))?;
        self.text("Across processes it goes like this, each in a terminal of its own:")?;
        for command in [
            "zincmq host --bind tcp://127.0.0.1:5555",
            "zincmq sub tcp://127.0.0.1:5555",
            "echo hello | zincmq pub tcp://127.0.0.1:5555 --topic greetings",
            "zincmq pad tcp://127.0.0.1:5555 minutes",
        ] {
            self.text(&format!("   {}", paint.bold(command)))?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.output.is_json() { Ok(()) } else { self.output.text(text) }
    }
}

/// The widest line, in characters: what is easy to read.
const WIDTH: usize = 78;

/// Breaks text between words. Lines after the first are indented as far as `lead` goes: its blanks, or those and its mark.
fn wrapped(lead: &str, text: &str) -> String {
    let indent = if lead.trim().is_empty() { lead.len() } else { "   ok ".len() };
    let mut lines = lead.to_owned();
    let mut column = indent;
    for (i, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if i > 0 && column + 1 + width > WIDTH {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            column = indent;
        } else if i > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += width;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_between_words_and_stays_aligned() {
        let text = "word ".repeat(30);
        let lines = wrapped("   ", text.trim());
        assert!(lines.lines().count() > 1);
        assert!(lines.lines().all(|line| line.starts_with("   word") && line.len() <= WIDTH));
        let marked = wrapped("   \u{1b}[32mok\u{1b}[0m ", text.trim());
        assert!(marked.lines().skip(1).all(|line| line.starts_with("      word")));
    }
}
