//! Conformance of `zincmq::zmtp` with ZMTP 3.1 on the wire: octets in, what becomes of them out. `docs/zmtp.md` lists the cases by their numbers.
//!
//! Cases that are octets sent to a bound socket are in `cases`; they are held against the library, and against libzmq by way of pyzmq, so
//! that a wrong idea of the protocol does not go unnoticed. Those need a Python with pyzmq, as `tests/interop.rs` says.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for modules without IO"
)]

#[path = "zmtp_conformance/cases.rs"]
mod cases;
mod common;
#[path = "zmtp_conformance/hostile.rs"]
mod hostile;
#[path = "zmtp_conformance/machine.rs"]
mod machine;
#[path = "zmtp_conformance/memory.rs"]
mod memory;
/// Binds a socket to a port that the system chooses.
macro_rules! bind {
    ($socket:expr) => {
        crate::subject::port_of(&$socket.bind("tcp://127.0.0.1:0").await.expect("a free port").to_string())
    };
}

#[path = "zmtp_conformance/patterns.rs"]
mod patterns;
#[path = "common/process.rs"]
mod process;
#[path = "zmtp_conformance/sockets.rs"]
mod sockets;
#[path = "zmtp_conformance/subject.rs"]
mod subject;
#[path = "zmtp_conformance/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use cases::{Case, Outcome};
use subject::{Kind, Subject, python};
use wire::Raw;

/// For how long a connection has to stay open, after another one has been served, to count as left open. A subject that closes it does so before.
const GRACE: Duration = Duration::from_millis(100);

/// Plays a case's peer, and sees what becomes of it. What is seen is what is expected, or the test fails, so nothing is waited for that may not come.
async fn hold(subject: &mut Subject, case: &Case, expected: &Outcome) {
    println!("{}: {}", case.number, case.what);
    let mut raw = Raw::connect(subject.port).await;
    raw.send(&case.first).await;
    if !case.then.is_empty() && raw.is_introduced().await {
        raw.send(&case.then).await;
    }
    let (reports, is_closed) = match expected {
        Outcome::Closed => (&[][..], true),
        Outcome::LeftOpen | Outcome::Answered(_) => (&[][..], false),
        Outcome::Delivered(reports) => (&reports[..], false),
    };
    for report in reports {
        assert_eq!(*report, subject.report().await);
    }
    if let Outcome::Answered(frames) = expected {
        for frame in frames {
            assert_eq!(raw.frame().await, *frame);
        }
    }
    if is_closed {
        raw.closed().await;
        if let Some(reason) = subject.end_of(raw.port()).await {
            assert!(format!("{reason:?}").contains(case.why), "{reason:?} instead of {}", case.why);
        }
    }
    subject.serves_the_honest().await;
    if !is_closed {
        tokio::time::sleep(GRACE).await;
        assert!(!raw.is_closed(), "it was closed");
    }
}

async fn hold_all(mut subjects: BTreeMap<Kind, Subject>, expected: impl Fn(&Case) -> &Outcome) {
    for case in cases::all() {
        let subject = subjects.get_mut(&case.kind).expect("one of each kind");
        hold(subject, &case, expected(&case)).await;
    }
}

#[tokio::test]
async fn the_library_does_what_is_wanted() {
    let mut subjects = BTreeMap::new();
    for kind in Kind::ALL {
        subjects.insert(kind, Subject::engine(kind).await);
    }
    hold_all(subjects, |case| &case.wanted).await;
}

/// The table cannot say what was not tested.
#[test]
fn the_documentation_lists_these_cases_and_no_others() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/zmtp.md")).expect("it is there");
    let (_, table) = text.split_once("| # | socket | what a peer sends |").expect("the table");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let mut due = cases::all();
    due.sort_by_key(|case| case.number);
    let due: Vec<String> = due.iter().map(Case::row).collect();
    assert_eq!(rows, due, "the rows due:\n{}", due.join("\n"));
}

#[tokio::test]
async fn libzmq_does_what_the_documentation_says() {
    let Some(python) = python() else { return };
    let mut subjects = BTreeMap::new();
    for kind in Kind::ALL {
        subjects.insert(kind, Subject::libzmq(python, kind).await);
    }
    hold_all(subjects, |case| case.libzmq.as_ref().unwrap_or(&case.wanted)).await;
}
