//! What carries TCP and Unix sockets makes no difference, but for what it is there for.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;

use common::{Kind, address, soon};
use futures::StreamExt;
use zincmq::prelude::*;
use zincmq::zmtp::{Bound, Options, SubSocket};
use zincmq::{Carrier, HighWaterMark, Stats};

const EACH: u64 = 2_000;

/// A host with one carrier, a client with each: all of them send, and see one order.
async fn one_order(host: Carrier, kind: Kind) {
    let host = Host::builder().transport(host).echo(true).bind(address(kind)).await.unwrap();
    let mut streams = vec![host.messages()];
    let mut senders = vec![host.sender()];
    let mut clients = Vec::new();
    for carrier in [Carrier::Zmtp, Carrier::Zeromq] {
        let builder = Client::builder().transport(carrier).echo(true);
        let (client, messages) = soon(builder.join_with_messages(host.address().clone())).await.unwrap();
        streams.push(messages);
        senders.push(client.sender());
        clients.push(client);
    }
    for sender in &senders {
        let sender = sender.clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                sender.send(Message::new("t", n.to_string()).unwrap()).await.unwrap();
            }
        });
    }
    let mut orders = Vec::new();
    for mut stream in streams {
        let mut order = Vec::new();
        while order.len() < senders.len() * EACH as usize {
            let message = soon(stream.next()).await.expect("no end").expect("no hole");
            order.push((message.position(), message.origin(), message.origin_seq()));
        }
        orders.push(order);
    }
    assert!(orders[1..].iter().all(|order| *order == orders[0]));
    for client in clients {
        assert_eq!(soon(client.shutdown()).await.unknown, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_with_different_carriers_are_in_one_cluster_over_tcp() {
    one_order(Carrier::Zmtp, Kind::Tcp).await;
    one_order(Carrier::Zeromq, Kind::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_with_different_carriers_are_in_one_cluster_over_ipc() {
    one_order(Carrier::Zmtp, Kind::Ipc).await;
    one_order(Carrier::Zeromq, Kind::Ipc).await;
}

/// A SUB that is no member acknowledges nothing: what waits for it is all there is to judge it by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_subscriber_that_stops_reading_is_cut_off_and_disturbs_nobody() {
    for kind in [Kind::Tcp, Kind::Ipc] {
        let mark = HighWaterMark::new().bytes(1 << 20);
        let host = Host::builder().high_water_mark(mark).bind(address(kind)).await.unwrap();
        let (client, mut messages) =
            soon(Client::builder().join_with_messages(host.address().clone())).await.unwrap();
        let mut events = host.events();
        let mut options = Options::default();
        // It takes one message from the system, and then no more until that is taken from it.
        options.recv_hwm = Bound::new(1, 1);
        let plain = SubSocket::with_options(options);
        plain.subscribe("W");
        plain.connect(&*host.bound().broadcast.to_string()).unwrap();
        let sender = host.sender();
        let sending = tokio::spawn(async move {
            let mut sent = 0_u64;
            loop {
                let padding = vec![0; 1024];
                if sender.send(Message::new("t", padding).unwrap()).await.is_err() {
                    return sent;
                }
                sent += 1;
            }
        });
        let cut =
            async { while !matches!(events.next().await.expect("no end"), Event::SubscriberCut { .. }) {} };
        let reading = async {
            let mut last = 0;
            while let Some(message) = messages.next().await {
                let seq = message.expect("no hole").position().expect("ordered").seq;
                assert_eq!(seq, last + 1);
                last = seq;
            }
            last
        };
        tokio::pin!(reading);
        tokio::select! {
            () = soon(cut) => {}
            last = &mut reading => panic!("the stream ended at {last}"),
        }
        let (report, last) = tokio::join!(host.shutdown(), soon(client_ends(client, reading)));
        assert_eq!((report.unknown, report.members), (0, 0));
        assert_eq!(soon(sending).await.unwrap(), last, "the member has all of them");
        let Stats { transport_drops, evictions, .. } = host.stats();
        assert!(transport_drops > 0, "what the plain one missed is counted");
        assert_eq!(evictions, 0);
    }
}

/// Reads on until the host has shut down, and then ends the client.
async fn client_ends(client: Client, reading: impl Future<Output = u64>) -> u64 {
    let mut events = client.events();
    let ending = async {
        while !matches!(events.next().await.expect("no end"), Event::Disconnected { .. }) {}
        let _ = client.shutdown().await;
    };
    tokio::join!(ending, reading).1
}
