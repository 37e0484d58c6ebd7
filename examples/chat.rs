//! A chat over several terminals or machines.
//!
//! One terminal hosts: `cargo run --example chat -- host tcp://127.0.0.1:7000`.
//! Others join: `cargo run --example chat -- join tcp://127.0.0.1:7000 ada`.
//! Type lines; the end of the input (ctrl-d) leaves. Everyone sees all lines in the same order.

use std::error::Error;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use zincmq::prelude::*;

/// What travels, as MessagePack.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    name: String,
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] | ["host"] => host("tcp://127.0.0.1:0").await,
        ["host", address] => host(address).await,
        ["join", address, name] => {
            // With echo, own lines are shown where the order puts them, like everybody else's.
            let client = Client::builder().echo(true).join(*address).await?;
            chat(&client, name).await
        }
        _ => Err("usage: chat host [ADDRESS] | chat join ADDRESS NAME".into()),
    }
}

async fn host(address: &str) -> Result<(), Box<dyn Error>> {
    let host = Host::builder().echo(true).bind(address).await?;
    println!("join with: chat join {} NAME", host.address());
    chat(&host, "host").await
}

/// The same for host and clients: both are endpoints.
async fn chat(endpoint: &dyn Endpoint, name: &str) -> Result<(), Box<dyn Error>> {
    let mut events = endpoint.events();
    let mut messages = endpoint.messages();
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = input.next_line() => match line? {
                Some(text) => {
                    let line = Line { name: name.to_owned(), text };
                    endpoint.send(Message::encode("chat", &line)?).await?;
                }
                None => break,
            },
            message = messages.next() => match message {
                Some(Ok(message)) => {
                    match message.decode::<Line>() {
                        Ok(line) => println!("{}: {}", line.name, line.text),
                        // Others may use the cluster for other things.
                        Err(error) => println!("* not a line of chat: {error}"),
                    }
                }
                Some(Err(hole)) => println!("* {hole}"),
                None => break,
            },
            event = events.next() => match event {
                Some(Event::MemberJoined { .. }) => println!("* somebody joined: {} here", endpoint.members().len()),
                Some(Event::MemberLeft { .. }) => println!("* somebody left: {} here", endpoint.members().len()),
                Some(Event::Disconnected { reason }) => println!("* {reason}; trying to come back"),
                Some(Event::Connected { .. }) => println!("* back again"),
                Some(_) => {}
                None => break,
            },
        }
    }
    let report = endpoint.shutdown().await;
    println!("* left; {} lines unsent, {} of unknown fate", report.unsent, report.unknown);
    Ok(())
}
