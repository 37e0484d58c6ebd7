//! Documents from the command line: `zincmq doc` and `zincmq host --store`, as real processes.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the sans-IO machines")]

#[path = "common/cli.rs"]
mod cli;

use std::io::Write;
use std::path::Path;

use cli::{Zincmq, host, publish, sub};
use serde_json::{Value, json};

/// Runs `zincmq doc edit` to its end in order, and gives the line it ends with.
fn edit(address: &str, name: &str, input: &str) -> Value {
    let mut edit = Zincmq::start(&["--json", "doc", "edit", address, name]);
    edit.feed(input.as_bytes());
    let edited = edit.next();
    edit.ends_well();
    edited
}

fn get(address: &str, name: &str) -> Value {
    let mut get = Zincmq::start(&["--json", "doc", "get", address, name]);
    let text = get.next();
    get.ends_well();
    assert_eq!((&text["event"], &text["document"]), (&"text".into(), &name.into()));
    text["text"].clone()
}

/// A watcher, and the text it begins with.
fn watch(address: &str, name: &str) -> (Zincmq, Value) {
    let mut watch = Zincmq::start(&["--json", "doc", "watch", address, name]);
    let first = watch.next();
    (watch, whole(&first).unwrap_or_else(|| panic!("{first}")))
}

/// The whole text, if that is what a line tells.
fn whole(line: &Value) -> Option<Value> {
    (line["event"] == "change" && line["origin"].is_null()).then(|| line["text"].clone())
}

fn list(address: &str) -> Vec<Value> {
    let mut list = Zincmq::start(&["--json", "doc", "list", address]);
    let lines: Vec<Value> =
        std::iter::from_fn(|| list.next_line()).map(|line| serde_json::from_str(&line).unwrap()).collect();
    list.ends_well();
    lines
}

#[test]
fn what_edit_reads_get_prints_and_watch_tells_in_patches() {
    let (_host, address) = host(&[]);
    let (mut watch, first) = watch(&address, "minutes");
    assert_eq!(first, "");
    let edited = edit(&address, "minutes", "[0, 0, \"Hello 🌍\"]\n\n[5, 1, \", \"]\n[8, 0, \"!\\n\"]");
    assert_eq!(edited, json!({ "event": "edited", "document": "minutes", "updates": 3 }));
    assert_eq!(get(&address, "minutes"), "Hello, 🌍!\n");
    // What came in together is told together.
    let (mut origins, mut text) = (Vec::new(), Vec::new());
    while text.iter().collect::<String>() != "Hello, 🌍!\n" {
        let change = watch.next();
        assert_eq!(change["event"], "change");
        assert_eq!(change.as_object().unwrap().len(), 3, "{change}");
        for patch in change["patches"].as_array().unwrap() {
            let [at, deleted] = [0, 1].map(|n| patch[n].as_u64().unwrap() as usize);
            text.splice(at..at + deleted, patch[2].as_str().unwrap().chars());
        }
        origins.push(change["origin"].as_str().unwrap().to_owned());
    }
    assert!(origins.iter().all(|origin| *origin == origins[0]), "{origins:?}");
    watch.signal("INT");
    watch.ends_well();
}

#[test]
fn sub_prints_what_documents_say_only_where_it_is_asked_for() {
    let (_host, address) = host(&[]);
    let (mut everything, _) = sub(&address, &["--count", "1"]);
    let (mut documents, _) = sub(&address, &["--topic", "doc/minutes/f", "--count", "2"]);
    edit(&address, "minutes", "[0, 0, \"Hello\"]");
    publish(&address, "news", b"of the day");
    assert_eq!(everything.next()["topic"], "news");
    for _ in 0..2 {
        assert_eq!(documents.next()["topic"], "doc/minutes/f");
    }
    for mut sub in [everything, documents] {
        assert_eq!(sub.next()["event"], "closed");
        sub.ends_well();
    }
}

#[test]
fn get_prints_the_text_as_it_is_and_nothing_else() {
    let (_host, address) = host(&[]);
    edit(&address, "a", "[0, 0, \"one\\ntwo\\tthree\"]");
    let mut get = Zincmq::start(&["doc", "get", &address, "a"]);
    assert_eq!([get.next_line(), get.next_line()], ["one".to_owned(), "two\tthree".to_owned()].map(Some));
    assert_eq!(get.next_line(), None);
    get.ends_well();
    let mut edit = Zincmq::start(&["doc", "edit", &address, "a"]);
    edit.feed(b"[0, 3, \"1\"]\n");
    assert_eq!(edit.next_line().unwrap(), "1 change to a");
    edit.ends_well();
    let mut watch = Zincmq::start(&["doc", "watch", &address, "a"]);
    assert_eq!(watch.next_line().unwrap(), "text    \"1\\ntwo\\tthree\"");
    edit = Zincmq::start(&["doc", "edit", &address, "a"]);
    edit.feed(b"[0, 1, \"\"]\n");
    assert!(watch.next_line().unwrap().starts_with("changed [0, 1, \"\"]  by "));
    edit.ends_well();
}

#[test]
fn a_line_that_makes_no_sense_is_named_and_those_before_it_count() {
    let (_host, address) = host(&[]);
    for (name, wrong, reason) in [
        ("range", "[3, 0, \"x\"]", "past the end"),
        ("length", "[0, 9, \"\"]", "past the end"),
        ("shape", "[1, 2]", "not a change"),
        ("text", "hello", "not a change"),
    ] {
        let mut edit = Zincmq::start(&["doc", "edit", &address, name]);
        edit.feed(format!("[0, 0, \"ab\"]\n{wrong}\n[0, 0, \"never\"]\n").as_bytes());
        let said = edit.fails(2);
        assert!(said.starts_with("error: line 2: ") && said.contains(reason), "{said}");
        assert_eq!(get(&address, name), "ab");
    }
}

#[test]
fn many_lines_from_several_at_once_come_to_one_text() {
    let (_host, address) = host(&[]);
    let (mut watch, _) = watch(&address, "many");
    let mut editors: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|letter| {
            let mut edit = Zincmq::start(&["--json", "doc", "edit", &address, "many"]);
            edit.feed(format!("[0, 0, \"{letter}\"]\n").repeat(300).as_bytes());
            edit
        })
        .collect();
    for edit in &mut editors {
        assert_eq!(edit.next()["updates"], 300);
        edit.ends_well();
    }
    let text = get(&address, "many");
    let text = text.as_str().unwrap();
    for letter in ["a", "b", "c"] {
        assert_eq!(text.matches(letter).count(), 300, "{text}");
    }
    // Patch by patch, it comes to the same.
    let mut followed: Vec<char> = Vec::new();
    while followed.len() < 900 {
        let change = watch.next();
        for patch in change["patches"].as_array().unwrap_or_else(|| panic!("{change}")) {
            let at = patch[0].as_u64().unwrap() as usize;
            let end = at + patch[1].as_u64().unwrap() as usize;
            followed.splice(at..end, patch[2].as_str().unwrap().chars());
        }
    }
    assert_eq!(followed.iter().collect::<String>(), text);
}

#[test]
fn list_tells_names_types_and_sizes() {
    let (_host, address) = host(&[]);
    assert_eq!(list(&address), Vec::<Value>::new());
    edit(&address, "b", "[0, 0, \"text\"]");
    edit(&address, "a b", "[0, 0, \"text\"]");
    // Looked at, and not written to.
    get(&address, "c");
    let documents = list(&address);
    assert_eq!(documents.iter().map(|line| &line["name"]).collect::<Vec<_>>(), ["a b", "b"]);
    for line in documents {
        assert_eq!((&line["event"], &line["kind"]), (&"document".into(), &"text".into()));
        assert!(line["size"].as_u64().unwrap() > 0);
    }
    let mut list = Zincmq::start(&["doc", "list", &address]);
    assert!(list.next_line().unwrap().starts_with("a b  (text, "));
}

#[test]
fn without_a_keeper_everything_says_so() {
    let (_host, address) = host(&["--no-documents"]);
    for args in [&["get", &address, "a"][..], &["edit", &address, "a"], &["watch", &address, "a"]] {
        let said = Zincmq::start(&[&["doc"], args].concat()).fails(1);
        assert!(said.contains("nobody who answers has the document \"a\""), "{said}");
        assert!(said.contains("--no-documents"), "{said}");
    }
    let said = Zincmq::start(&["doc", "list", &address]).fails(1);
    assert!(said.contains("no host that answers keeps documents"), "{said}");
}

#[test]
fn a_name_that_no_document_can_have_is_refused() {
    let (_host, address) = host(&[]);
    let said = Zincmq::start(&["doc", "get", &address, "a/b"]).fails(1);
    assert!(said.contains("no document can be named"), "{said}");
    let said = Zincmq::start(&["doc", "get", &address]).fails(2);
    assert!(said.contains("<NAME>"), "{said}");
}

#[test]
fn documents_in_a_file_survive_the_host_while_a_watcher_waits() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}", directory.path().join("cluster").display());
    let store = directory.path().join("documents");
    let args = ["--bind", &address, "--store", path(&store)];
    let (mut first, _) = host(&args);
    let keeping = first.next_event("keeping");
    assert_eq!((&keeping["store"], &keeping["documents"]), (&path(&store).into(), &0.into()));
    let (mut watch, _) = watch(&address, "kept");
    edit(&address, "kept", "[0, 0, \"before\"]");
    assert_eq!(watch.next()["patches"], json!([[0, 0, "before"]]));
    first.signal("TERM");
    first.next_event("closed");
    first.ends_well();
    assert_eq!(watch.next()["event"], "disconnected");

    let (mut second, _) = host(&args);
    assert_eq!(second.next_event("keeping")["documents"], 1);
    let again = until(&mut watch, whole);
    assert_eq!(again, "before");
    assert_eq!(get(&address, "kept"), "before");
    edit(&address, "kept", "[6, 0, \" and after\"]");
    let patches = until(&mut watch, |line| line.get("patches").cloned());
    assert_eq!(patches, json!([[6, 0, " and after"]]));
}

#[test]
fn without_a_file_those_who_have_a_document_open_bring_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}", directory.path().join("cluster").display());
    let (mut first, _) = host(&["--bind", &address]);
    let mut edit = Zincmq::start(&["--json", "doc", "edit", &address, "brought", "--timeout", "60"]);
    let mut input = edit.stdin();
    input.write_all(b"[0, 0, \"one\"]\n").unwrap();
    let (mut watch, text) = watch(&address, "brought");
    if text == "" {
        assert_eq!(watch.next()["patches"], json!([[0, 0, "one"]]));
    }
    first.signal("TERM");
    first.next_event("closed");
    assert_eq!(watch.next()["event"], "disconnected");
    let (_second, _) = host(&["--bind", &address]);
    input.write_all(b"[3, 0, \" two\"]\n").unwrap();
    drop(input);
    assert_eq!(edit.next_event("edited")["updates"], 2);
    let (status, said) = edit.wait();
    assert!(status.success(), "{said}");
    assert_eq!(get(&address, "brought"), "one two");
}

#[test]
fn what_is_kept_beside_the_host_survives_it_and_its_file_is_as_good() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}", directory.path().join("cluster").display());
    let copy = directory.path().join("copy");
    let (mut first, _) = host(&["--bind", &address]);
    edit(&address, "a", "[0, 0, \"one\"]");
    let mut keep = Zincmq::start(&["--json", "doc", "keep", &address, "--store", path(&copy)]);
    let keeping = json!({ "event": "keeping", "store": path(&copy), "documents": 1 });
    assert_eq!(keep.next(), keeping);
    edit(&address, "b", "[0, 0, \"two\"]");
    first.signal("TERM");
    first.next_event("closed");
    assert_eq!(keep.next()["event"], "disconnected");
    // This one has nothing, and nobody has anything open.
    let (mut second, _) = host(&["--bind", &address]);
    keep.next_event("connected");
    let came = (0..600).any(|_| get(&address, "a") == "one" && get(&address, "b") == "two");
    assert!(came);
    keep.signal("TERM");
    keep.next_event("closed");
    keep.ends_well();
    second.signal("TERM");
    second.next_event("closed");
    let (mut third, address) = host(&["--store", path(&copy)]);
    assert_eq!(third.next_event("keeping")["documents"], 2);
    assert_eq!([get(&address, "a"), get(&address, "b")], ["one", "two"]);

    let said = Zincmq::start(&["doc", "keep", &address, "--store", path(&copy)]).fails(1);
    assert!(said.contains("in use"), "{said}");
    let said = Zincmq::start(&["doc", "keep", &address]).fails(2);
    assert!(said.contains("--store <FILE>"), "{said}");
}

#[test]
fn a_file_that_is_no_store_ends_the_host_and_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = directory.path().join("foreign");
    std::fs::write(&foreign, "a letter to a friend").unwrap();
    let said = Zincmq::start(&["host", "--store", path(&foreign)]).fails(1);
    assert!(said.contains(path(&foreign)) && said.contains("left as it is"), "{said}");
    assert_eq!(std::fs::read(&foreign).unwrap(), b"a letter to a friend");

    let store = directory.path().join("store");
    let (mut first, address) = host(&["--store", path(&store)]);
    edit(&address, "a", "[0, 0, \"something\"]");
    let said = Zincmq::start(&["host", "--store", path(&store)]).fails(1);
    assert!(said.contains("in use"), "{said}");
    first.signal("TERM");
    first.next_event("closed");
    first.ends_well();

    let mut bytes = std::fs::read(&store).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    std::fs::write(&store, &bytes).unwrap();
    let said = Zincmq::start(&["host", "--store", path(&store)]).fails(1);
    assert!(said.contains("damaged"), "{said}");
    assert_eq!(std::fs::read(&store).unwrap(), bytes);

    let nowhere = directory.path().join("none").join("store");
    assert!(Zincmq::start(&["host", "--store", path(&nowhere)]).fails(1).contains(path(&nowhere)));
    let said = Zincmq::start(&["host", "--store", "x", "--no-documents"]).fails(2);
    assert!(said.contains("cannot be used with"), "{said}");
}

#[test]
fn a_host_that_goes_away_for_good_ends_an_edit_that_waits() {
    let (mut host, address) = host(&[]);
    let mut edit = Zincmq::start(&["doc", "edit", &address, "a", "--timeout", "1"]);
    let mut input = edit.stdin();
    input.write_all(b"[0, 0, \"one\"]\n").unwrap();
    let (mut watch, text) = watch(&address, "a");
    if text == "" {
        assert_eq!(watch.next()["patches"], json!([[0, 0, "one"]]));
    }
    host.kill();
    let said = edit.fails(1);
    assert!(said.contains("did not come back"), "{said}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The first line of which there is something to say, passing over others.
fn until(watch: &mut Zincmq, mut is: impl FnMut(&Value) -> Option<Value>) -> Value {
    loop {
        if let Some(found) = is(&watch.next()) {
            return found;
        }
    }
}
