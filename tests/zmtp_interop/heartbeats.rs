//! Signs of life: the engine's heartbeats and libzmq's, for each other.

use std::sync::mpsc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use zincmq::zmtp::{
    Bound, DealerSocket, DisconnectReason, Heartbeat, Monitor, MonitorEvent, Options, PullSocket,
    RouterSocket, Violation,
};

use crate::any::{event, soon};
use crate::python::{Python, counting, pythons};

const INTERVAL: Duration = Duration::from_millis(50);
/// Long enough for a machine that is busy with other things.
const TIMEOUT: Duration = Duration::from_millis(800);

fn heartbeat(ttl: Duration) -> Options {
    let mut options = Options::default();
    options.heartbeat = Some(Heartbeat { interval: INTERVAL, timeout: TIMEOUT, ttl });
    options
}

async fn until_silent(monitor: &mut Monitor) {
    let reason = event(monitor, "it is found dead", |event| match event {
        MonitorEvent::Disconnected { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason.await, DisconnectReason::Violation(Violation::Silent));
}

/// Nobody is disconnected for as long as would be enough to be found dead, twice.
async fn stays(monitor: &mut Monitor) {
    let gone = async {
        loop {
            if let Some(MonitorEvent::Disconnected { reason, .. }) = monitor.next().await {
                return reason;
            }
        }
    };
    if let Ok(reason) = tokio::time::timeout(2 * TIMEOUT, gone).await {
        panic!("{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_libzmq_that_stops_is_found_dead_and_comes_back() {
    for python in pythons() {
        // By the engine's own asking, and by libzmq's announcement.
        for (options, setting) in [
            (heartbeat(Duration::ZERO), json!({})),
            // libzmq's own patience is as long as its interval by default: too short for a busy machine.
            (
                Options::default(),
                json!({ "HEARTBEAT_IVL": 50, "HEARTBEAT_TIMEOUT": 60_000, "HEARTBEAT_TTL": 800 }),
            ),
        ] {
            let mut pull = PullSocket::with_options(options);
            let mut monitor = pull.monitor();
            let at = pull.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
            let mut setting = setting;
            setting["connect"] = json!([at]);
            let (mut push, _) = Python::with(python, "PUSH", setting).await;
            push.send(&["before".into()]).await;
            assert_eq!(soon("it", pull.recv()).await.expect("open").first(), "before");
            stays(&mut monitor).await;
            push.stop().await;
            until_silent(&mut monitor).await;
            push.signal("CONT");
            event(&mut monitor, "it is back", |event| {
                matches!(event, MonitorEvent::Ready { .. }).then_some(())
            })
            .await;
            push.send(&["after".into()]).await;
            assert_eq!(soon("it", pull.recv()).await.expect("open").first(), "after");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_both_are_answered_for_as_long_as_both_live() {
    for python in pythons() {
        for options in [Options::default(), heartbeat(TIMEOUT)] {
            let mut router = RouterSocket::with_options(options);
            let mut monitor = router.monitor();
            let at = router.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
            let setting = json!({ "connect": [at], "HEARTBEAT_IVL": 50, "HEARTBEAT_TIMEOUT": 800, "HEARTBEAT_TTL": 800 });
            let (mut dealer, _) = Python::with(python, "DEALER", setting).await;
            dealer.send(&["one".into()]).await;
            let first = soon("it", router.recv()).await.expect("open");
            stays(&mut monitor).await;
            dealer.send(&["two".into()]).await;
            // The same connection: libzmq told no identity, so that another one would have another here.
            assert_eq!(soon("it", router.recv()).await.expect("open").first(), first.first());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stands_still_is_given_up_by_libzmq() {
    for python in pythons() {
        // By libzmq's asking, and by the engine's announcement.
        for (options, setting) in [
            (Options::default(), json!({ "HEARTBEAT_IVL": 50, "HEARTBEAT_TIMEOUT": 500 })),
            (heartbeat(Duration::from_millis(500)), json!({})),
        ] {
            let (bound, at) = mpsc::channel();
            let (go_on, stand_still) = mpsc::channel::<()>();
            let engine = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    let mut dealer = DealerSocket::with_options(options);
                    bound
                        .send(dealer.bind("tcp://127.0.0.1:0").await.expect("bound"))
                        .expect("the test listens");
                    assert_eq!(soon("it", dealer.recv()).await.expect("open").first(), "before");
                    // A PING has gone out.
                    tokio::time::sleep(3 * INTERVAL).await;
                    stand_still.recv().expect("the test goes on");
                    assert_eq!(soon("it", dealer.recv()).await.expect("open").first(), "after");
                });
            });
            let mut setting = setting;
            setting["monitor"] = true.into();
            setting["connect"] = json!([at.recv().expect("bound").to_string()]);
            let (mut dealer, _) = Python::with(python, "DEALER", setting).await;
            dealer.send(&["before".into()]).await;
            dealer.ask("until", json!({ "event": "DISCONNECTED" })).await;
            go_on.send(()).expect("it stands still");
            dealer.ask("until", json!({ "event": "HANDSHAKE_SUCCEEDED" })).await;
            dealer.send(&["after".into()]).await;
            tokio::task::spawn_blocking(|| engine.join()).await.expect("joined").expect("it ends well");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_its_time_does_not_make_its_peers_dead() {
    const MESSAGES: usize = 300;
    for python in pythons() {
        let mut options = heartbeat(Duration::ZERO);
        options.recv_hwm = Bound::new(5, 1 << 20);
        let mut pull = PullSocket::with_options(options);
        let mut monitor = pull.monitor();
        let at = pull.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
        let setting = json!({ "connect": [at], "SNDHWM": 0 });
        let (mut push, _) = Python::with(python, "PUSH", setting).await;
        for i in 0..MESSAGES {
            push.send(&[counting((i % 251) as u8, 20_000)]).await;
        }
        // Its answers are behind what is not read.
        stays(&mut monitor).await;
        for i in 0..MESSAGES {
            assert!(
                *soon("it", pull.recv()).await.expect("open").first() == counting((i % 251) as u8, 20_000)
            );
        }
        stays(&mut monitor).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_its_time_is_not_dead_to_a_libzmq_that_asks() {
    const MESSAGES: usize = 300;
    const ASKS: Duration = Duration::from_secs(1);
    /// As much as a busy machine may need.
    const PATIENCE: Duration = Duration::from_secs(3);
    let millis = |duration: Duration| duration.as_millis() as u64;
    for python in pythons() {
        let mut options = Options::default();
        options.recv_hwm = Bound::new(5, 1 << 20);
        let mut pull = PullSocket::with_options(options);
        let mut monitor = pull.monitor();
        let at = pull.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
        let setting = json!({ "connect": [at], "SNDHWM": 0, "HEARTBEAT_IVL": millis(ASKS), "HEARTBEAT_TIMEOUT": millis(PATIENCE) });
        let (mut push, _) = Python::with(python, "PUSH", setting).await;
        push.send(&["first".into()]).await;
        assert_eq!(soon("it", pull.recv()).await.expect("open").first(), "first");
        // It has asked once.
        tokio::time::sleep(2 * ASKS).await;
        for i in 0..MESSAGES {
            push.send(&[counting((i % 251) as u8, 20_000)]).await;
        }
        let gone = event(&mut monitor, "it is given up", |event| match event {
            MonitorEvent::Disconnected { reason, .. } => Some(reason),
            _ => None,
        });
        let gone = tokio::time::timeout(2 * ASKS + PATIENCE, gone).await;
        assert!(gone.is_err(), "{gone:?}");
        for i in 0..MESSAGES {
            assert!(
                *soon("it", pull.recv()).await.expect("open").first() == counting((i % 251) as u8, 20_000)
            );
        }
    }
}
