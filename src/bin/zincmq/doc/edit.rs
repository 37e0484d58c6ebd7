//! `zincmq doc edit`: changes a text by lines of standard input, and waits until all changes have their places.

use tokio_util::sync::CancellationToken;
use zincmq::Endpoint;
use zincmq::document::crdt::Text;
use zincmq::document::{Conflict, DocumentError, DocumentHandle};

use super::{join, open};
use crate::args::TextArgs;
use crate::failure::Failure;
use crate::line::Line;
use crate::output::Output;
use crate::publish::host_gone;
use crate::stdin::{self, Lines};

pub(super) async fn run(args: TextArgs, stop: &CancellationToken, mut output: Output) -> Result<(), Failure> {
    let client = join(&args.join, stop).await?;
    let events = client.events();
    let mut updates = 0;
    let edited = async {
        let document = open(&client, &args.name, stop).await?;
        let edited = tokio::select! {
            edited = edit(&document, &mut updates, stop) => edited,
            failure = host_gone(events, args.join.timeout) => Err(failure),
        };
        // What is left of it goes to the endpoint, and with it to the host.
        document.close().await;
        edited
    };
    let edited = edited.await;
    // All changes have their places, or it is told why not.
    let _ = client.shutdown().await;
    edited?;
    output.line_now(&Line::Edited { document: &args.name, updates })
}

/// Applies line by line until the input ends, the end is asked for, or a line makes no sense; in any case waits for what was applied.
async fn edit(
    document: &DocumentHandle<Text>,
    updates: &mut u64,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let edited = apply_all(document, updates, stop).await;
    match (edited, document.synced().await) {
        (Err(failure), _) => Err(failure),
        (Ok(()), synced) => Ok(synced?),
    }
}

async fn apply_all(
    document: &DocumentHandle<Text>,
    updates: &mut u64,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut input = stdin::lines()?;
    let mut number = 0_u64;
    loop {
        let lines: Lines = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            lines = input.recv() => match lines {
                Some(lines) => lines?,
                None => return Ok(()),
            },
        };
        for line in lines {
            number += 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                apply(document, number, &line).await?;
                *updates += 1;
            }
        }
    }
}

async fn apply(document: &DocumentHandle<Text>, number: u64, line: &[u8]) -> Result<(), Failure> {
    let (position, deleted, inserted) = parse(line).map_err(|reason| unusable(number, &reason))?;
    let replaced = document.update(|text| text.replace(position, deleted, &inserted)).await;
    match replaced {
        Ok(Ok(())) => Ok(()),
        Ok(Err(conflict)) => Err(refused(document, number, &conflict).await),
        Err(error) => {
            let mut failure = Failure::from(error);
            if let Failure::Told { message, .. } = &mut failure {
                *message = format!("line {number}: {message}");
            }
            Err(failure)
        }
    }
}

/// The line's fault, unless the document is of no use any more.
async fn refused(document: &DocumentHandle<Text>, number: u64, conflict: &Conflict) -> Failure {
    match document.synced().await {
        Ok(()) => unusable(number, &conflict.to_string()),
        Err(error @ DocumentError::Closed { .. }) => error.into(),
        Err(error) => Failure::new(format!("line {number}: {error}")),
    }
}

fn unusable(number: u64, reason: &str) -> Failure {
    Failure::Usage {
        message: format!("line {number}: {reason}"),
        advice: Some(
            "a line is [position, deleted, \"inserted\"], in code points; the lines before this one count"
                .to_owned(),
        ),
    }
}

/// A line's position, how many code points go there, and what comes.
fn parse(line: &[u8]) -> Result<(usize, usize, String), String> {
    serde_json::from_slice(line).map_err(|error| {
        let reason = error.to_string();
        // There is but one line.
        let reason = reason.replace(" at line 1 column ", " at byte ");
        format!("not a change: {reason}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_position_a_number_and_a_text() {
        assert_eq!(parse(r#" [1, 2, "a\n🌍"] "#.as_bytes()), Ok((1, 2, "a\n🌍".to_owned())));
        for (line, reason) in [
            ("[1, 2]", "length 2"),
            ("[1, 2, \"a\", 4]", "trailing"),
            ("[-1, 2, \"a\"]", "-1"),
            ("[1.5, 2, \"a\"]", "1.5"),
            ("[1, 2, null]", "null"),
            ("hello", "expected value at byte 1"),
            ("[1, 2, \"\\ud800\"]", "byte"),
            ("[99999999999999999999999, 2, \"a\"]", "not a change"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
