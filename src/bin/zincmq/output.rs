//! Standard output: JSON or text, buffered, with colours where they are welcome.

use std::io::{BufWriter, IsTerminal, Stdout, Write};

use crate::failure::Failure;
use crate::line::{Line, printable};

/// How much is collected before it is written, in bytes (a guess: as much as a pipe holds on Linux).
const BUFFER: usize = 64 * 1024;

/// Where a command prints what happens.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
    paint: Paint,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let stdout = std::io::stdout();
        let paint = Paint(colours(&stdout));
        Self { stdout: BufWriter::with_capacity(BUFFER, stdout), json, paint }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Prints a line into the buffer.
    pub(crate) fn line(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        if self.json {
            return self.object(line);
        }
        line.write_text(&mut self.stdout, self.paint)?;
        Ok(self.stdout.write_all(b"\n")?)
    }

    /// Prints a line and flushes.
    pub(crate) fn line_now(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        self.line(line)?;
        self.flush()
    }

    /// Prints an object of its own kind, as JSON.
    pub(crate) fn object(&mut self, object: &impl serde::Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.stdout, object).map_err(std::io::Error::from)?;
        Ok(self.stdout.write_all(b"\n")?)
    }

    /// Prints text as it is, and at once; on a terminal it ends with a line break, and does nothing to it.
    pub(crate) fn raw(&mut self, text: &str) -> Result<(), Failure> {
        if !std::io::stdout().is_terminal() {
            self.stdout.write_all(text.as_bytes())?;
            return self.flush();
        }
        for line in text.lines() {
            self.stdout.write_all(printable(line).as_bytes())?;
            self.stdout.write_all(b"\n")?;
        }
        self.flush()
    }

    /// Prints text that only people read, at once.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.write_all(b"\n")?;
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::NobodyReads
        } else {
            Self::new(format!("cannot write to standard output: {error}"))
        }
    }
}

/// Whether to use colours there: on a terminal that has some, unless NO_COLOR is set (<https://no-color.org>).
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    let asked_not_to = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !asked_not_to && !dumb
}

/// Colours text, or leaves it as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A number with its thousands apart, for people.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and its noun, in the plural where it is not one.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(2000, "message"), "2,000 messages");
    }
}
