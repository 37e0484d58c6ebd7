//! Documents of Yjs programs, read here; and the other way round, where there is a Yjs.
#![cfg(feature = "crdt")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use zincmq::document::crdt::{Array, Canvas, Map, Sheet, Text, Undo, Value};
use zincmq::document::{Conflict, Document, Draft};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(truth) => json!(truth),
        Value::Int(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::Bytes(bytes) => json!(bytes.to_vec()),
        Value::List(values) => values.iter().map(json_of).collect(),
        Value::Map(values) => values.iter().map(|(name, value)| (name.clone(), json_of(value))).collect(),
        other => panic!("{other:?}"),
    }
}

fn text(document: &Text) -> Json {
    json!(document.to_string())
}

fn map(document: &Map) -> Json {
    document.iter().map(|(key, value)| (key.to_owned(), json_of(value))).collect()
}

fn array(document: &Array) -> Json {
    document.values().iter().map(json_of).collect()
}

fn sheet(document: &Sheet) -> Json {
    let row = |row| {
        (0..document.columns()).map(|column| document.cell(row, column).map_or(Json::Null, json_of)).collect()
    };
    (0..document.rows()).map(row).collect::<Vec<Json>>().into()
}

fn canvas(document: &Canvas) -> Json {
    let shape = |name, x: Option<&Value>| json!([name, x.map_or(Json::Null, json_of)]);
    document.shapes().map(|s| shape(s.name().to_string(), s.property("x"))).collect::<Vec<_>>().into()
}

/// All updates, forwards and backwards, and the state at the end, which we have read, come out as Yjs says.
fn reads<D: Document<Fragment = Bytes>>(kind: &str, content: impl Fn(&D) -> Json) {
    let fixture: Json = serde_json::from_str(include_str!("data/yjs/updates.json")).unwrap();
    let fixture = &fixture[kind];
    let updates = fixture["updates"].as_array().unwrap().iter().map(|update| unhex(update.as_str().unwrap()));
    let mut fragments: Vec<Bytes> = updates.map(|update| D::decode(&update).unwrap()).collect();
    assert!(fragments.len() > 3);
    for _ in 0..2 {
        let mut document = D::empty();
        document.set_replica(5);
        for fragment in &fragments {
            document.apply(fragment).unwrap();
        }
        assert_eq!(content(&document), fixture["content"]);
        assert_eq!(content(&D::restore(&document.snapshot()).unwrap()), fixture["content"]);
        fragments.reverse();
    }
    let state = D::restore(&unhex(fixture["state"].as_str().unwrap())).unwrap();
    assert_eq!(content(&state), fixture["content"]);
}

#[test]
fn reads_what_yjs_makes() {
    reads("text", text);
    reads("rich", text);
    reads("map", map);
    reads("array", array);
    reads("sheet", sheet);
    reads("canvas", canvas);
}

fn make<D: Undo>(change: impl FnOnce(&mut Draft<'_, D>) -> Result<(), Conflict>) -> (D, Vec<Bytes>) {
    let mut document = D::empty();
    document.set_replica((1 << 53) - 2);
    let ((), fragments) = Draft::alone(&mut document, change).unwrap();
    (document, fragments)
}

#[test]
#[ignore = "needs node, and Yjs in the directory ZINCMQ_YJS: see tests/data/yjs"]
fn yjs_reads_what_we_make() {
    let directory = std::env::var("ZINCMQ_YJS").expect("ZINCMQ_YJS");
    let (mut a_text, text_made) = make::<Text>(|draft| {
        draft.insert(0, "Hello 🌍")?;
        draft.replace(6, 1, "𝄞 é")?;
        draft.delete(0, 1)?;
        draft.undo().map(drop)?;
        draft.insert(0, "again")
    });
    let (mut a_map, map_made) = make::<Map>(|draft| {
        draft.set("list", vec![Value::from(1), Value::Null, 0.5.into()])?;
        draft.set("map", BTreeMap::from([("a".to_owned(), 1 << 40), ("b".to_owned(), -1_i64)]))?;
        draft.set("gone", true)?;
        draft.remove("gone").map(drop)
    });
    let (mut an_array, array_made) = make::<Array>(|draft| {
        draft.insert(0, ["a", "b", "c"])?;
        draft.replace(1..2, [Value::from(1), false.into()])
    });
    let (mut a_sheet, sheet_made) = make::<Sheet>(|draft| {
        draft.insert_rows(0, 2)?;
        draft.insert_columns(0, 2)?;
        draft.set(1, 1, "=A1")?;
        draft.insert_rows(1, 1)?;
        draft.remove_columns(0..1)
    });
    let (mut a_canvas, canvas_made) = make::<Canvas>(|draft| {
        let first = draft.add("first", [("x", 1.into())])?;
        draft.add("second", [])?;
        draft.add("third", [])?;
        draft.bring_to_front(&first)
    });
    let hexes = |made: &[Bytes]| made.iter().map(|fragment| hex(fragment)).collect::<Vec<_>>();
    let input = json!({
        "text": hexes(&text_made), "map": hexes(&map_made), "array": hexes(&array_made),
        "sheet": hexes(&sheet_made), "canvas": hexes(&canvas_made),
    });
    let mut node = Command::new("node")
        .args(["--input-type=module", "-e", include_str!("data/yjs/read.mjs")])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    let output: Json = serde_json::from_slice(&output.stdout).unwrap();

    fn back<D: Document<Fragment = Bytes>>(document: &mut D, output: &Json, content: impl Fn(&D) -> Json) {
        assert_eq!(content(document), output["content"]);
        let update = D::decode(&unhex(output["update"].as_str().unwrap())).unwrap();
        document.apply(&update).unwrap();
        assert_eq!(content(document), output["changed"]);
    }
    let kinds = |canvas: &Canvas| -> Json {
        canvas.shapes().map(|shape| json!(shape.kind())).collect::<Vec<_>>().into()
    };
    back(&mut a_text, &output["text"], text);
    back(&mut a_map, &output["map"], map);
    back(&mut an_array, &output["array"], array);
    back(&mut a_sheet, &output["sheet"], sheet);
    assert_eq!(kinds(&a_canvas), output["canvas"]["content"]);
    a_canvas.apply(&Canvas::decode(&unhex(output["canvas"]["update"].as_str().unwrap())).unwrap()).unwrap();
    assert!(a_canvas.shape("yjs").is_some_and(|shape| shape.kind() == "star"));
}
