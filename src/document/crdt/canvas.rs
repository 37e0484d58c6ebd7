//! Shapes, one above the other, that many change at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use yrs::undo::UndoManager;
use yrs::{Doc, Map as _, MapRef, TransactionMut};

use super::super::{Conflict, Document, Draft, Malformed, Merged, Model};
use super::engine::{self, Engine, Seen, Shape as _};
use super::fraction;
use super::scan::Contents;
use super::shared;
use super::undo::{Undo, sealed, undoable};
use super::value::Value;
use super::watch::{Entry, watch_map};

/// Shapes with properties, one above the other. In Yjs terms: a document with three `Y.Map`s, whose keys are what shapes are called: `shapes` says of what
/// kind they are; `order` has texts, and those that compare greater are above (equal ones by name); `properties` has values by shape, a comma, and the
/// property's name.
///
/// Different properties of a shape are changed at once without harm; of two that set the same one, one stays. A shape that is removed is removed, whatever
/// else happens to it at the same time. Shapes that are moved up or down at once end up in the same order everywhere, each where one of those that moved it put it.
///
/// ```
/// use zincmq::document::{Document, Draft, crdt::{Canvas, Value}};
///
/// # fn main() -> Result<(), zincmq::document::Conflict> {
/// let mut canvas = Canvas::empty();
/// canvas.set_replica(1);
/// Draft::alone(&mut canvas, |draft| {
///     let circle = draft.add("circle", [("radius", Value::from(2.5))])?;
///     draft.add("line", [])?;
///     draft.set(&circle, "fill", "red")?;
///     draft.bring_to_front(&circle)
/// })?;
/// let kinds: Vec<_> = canvas.shapes().map(|shape| shape.kind().to_owned()).collect();
/// assert_eq!(kinds, ["line", "circle"]);
/// assert_eq!(canvas.shapes().last().and_then(|shape| shape.property("fill")), Some(&Value::from("red")));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Canvas {
    engine: Engine<CanvasShape>,
    kinds: BTreeMap<Arc<str>, String>,
    /// Also of those that are gone; so are the properties.
    order: BTreeMap<Arc<str>, String>,
    properties: BTreeMap<(Arc<str>, Arc<str>), Value>,
    /// From the bottom to the top.
    stack: BTreeSet<(String, Arc<str>)>,
}

/// A shape on a [`Canvas`].
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    canvas: &'a Canvas,
    name: &'a Arc<str>,
    kind: &'a str,
}

impl<'a> Shape<'a> {
    /// What it is called, for as long as it exists.
    #[must_use]
    pub fn name(&self) -> &'a Arc<str> {
        self.name
    }

    /// Of what kind it is, as whoever added it said.
    #[must_use]
    pub fn kind(&self) -> &'a str {
        self.kind
    }

    /// What a property has.
    #[must_use]
    pub fn property(&self, property: &str) -> Option<&'a Value> {
        self.canvas.properties.get(&(Arc::clone(self.name), property.into()))
    }

    /// All properties, in the order of their names.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.canvas.properties_of(self.name)
    }
}

/// Something that happened to a canvas.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CanvasChange {
    /// A shape is there. What properties it has is to be read.
    Added {
        /// The shape.
        shape: Arc<str>,
    },
    /// A shape is gone.
    Removed {
        /// The shape.
        shape: Arc<str>,
    },
    /// A shape lies above and below others than before.
    Moved {
        /// The shape.
        shape: Arc<str>,
    },
    /// A shape has a property changed.
    Property {
        /// The shape.
        shape: Arc<str>,
        /// The property.
        property: Arc<str>,
        /// What it has now; `None` for nothing.
        value: Option<Value>,
    },
}

#[derive(Clone)]
struct CanvasShape {
    kinds: MapRef,
    order: MapRef,
    properties: MapRef,
    kinds_seen: Seen<Entry>,
    order_seen: Seen<Entry>,
    properties_seen: Seen<Entry>,
}

impl engine::Shape for CanvasShape {
    const CONTENTS: Contents = Contents::Values;

    fn attach(doc: &Doc) -> Self {
        let kinds = doc.get_or_insert_map("shapes");
        let order = doc.get_or_insert_map("order");
        let properties = doc.get_or_insert_map("properties");
        Self {
            kinds_seen: watch_map(&kinds),
            order_seen: watch_map(&order),
            properties_seen: watch_map(&properties),
            kinds,
            order,
            properties,
        }
    }

    fn track(&self, undo: &mut UndoManager<()>) {
        undo.expand_scope(&self.kinds);
        undo.expand_scope(&self.order);
        undo.expand_scope(&self.properties);
    }

    fn forget(&self) {
        self.kinds_seen.take();
        self.order_seen.take();
        self.properties_seen.take();
    }
}

impl Canvas {
    fn new(engine: Engine<CanvasShape>) -> Self {
        let mut canvas = Self {
            engine,
            kinds: BTreeMap::new(),
            order: BTreeMap::new(),
            properties: BTreeMap::new(),
            stack: BTreeSet::new(),
        };
        canvas.follow();
        canvas
    }

    /// How many shapes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// A shape by what it is called.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Shape<'_>> {
        let (name, kind) = self.kinds.get_key_value(name)?;
        Some(Shape { canvas: self, name, kind })
    }

    /// All shapes, from the bottom to the top.
    pub fn shapes(&self) -> impl DoubleEndedIterator<Item = Shape<'_>> {
        self.stack.iter().filter_map(|(_, name)| self.shape(name))
    }

    /// Whether both have taken in the same fragments, and so hold the same.
    #[must_use]
    pub fn same_history(&self, other: &Self) -> bool {
        self.engine.same_history(&other.engine)
    }

    fn properties_of(&self, shape: &Arc<str>) -> impl Iterator<Item = (&str, &Value)> + use<'_> {
        let shape = Arc::clone(shape);
        self.properties
            .range((Arc::clone(&shape), "".into())..)
            .take_while(move |((of, _), _)| *of == shape)
            .map(|((_, property), value)| (&**property, value))
    }

    fn place(&self, shape: &Arc<str>) -> (String, Arc<str>) {
        (self.order.get(shape).cloned().unwrap_or_default(), Arc::clone(shape))
    }

    fn follow(&mut self) -> Vec<CanvasChange> {
        let mut changes = Vec::new();
        let seen = self.engine.shape();
        let (kinds, orders, properties) =
            (seen.kinds_seen.take(), seen.order_seen.take(), seen.properties_seen.take());
        let others: BTreeSet<Arc<str>> = kinds.iter().map(|(shape, _)| Arc::clone(shape)).collect();
        for (shape, key) in orders {
            let there = self.stack.remove(&self.place(&shape));
            let key = key.as_ref().and_then(Value::as_str).map(str::to_owned);
            let before = match key.clone() {
                Some(key) => self.order.insert(Arc::clone(&shape), key),
                None => self.order.remove(&shape),
            };
            if there {
                self.stack.insert(self.place(&shape));
                if before != key && !others.contains(&shape) {
                    changes.push(CanvasChange::Moved { shape });
                }
            }
        }
        for (shape, kind) in kinds {
            let place = self.place(&shape);
            match kind {
                Some(kind) => {
                    let kind = kind.as_str().unwrap_or_default().to_owned();
                    self.kinds.insert(Arc::clone(&shape), kind);
                    if self.stack.insert(place) {
                        changes.push(CanvasChange::Added { shape });
                    }
                }
                None => {
                    if self.kinds.remove(&shape).is_some() {
                        self.stack.remove(&place);
                        changes.push(CanvasChange::Removed { shape });
                    }
                }
            }
        }
        for (key, value) in properties {
            let Some((shape, property)) = key.split_once(',') else { continue };
            let (shape, property): (Arc<str>, Arc<str>) = (shape.into(), property.into());
            let name = (Arc::clone(&shape), Arc::clone(&property));
            let before = match &value {
                Some(value) => self.properties.insert(name, value.clone()),
                None => self.properties.remove(&name),
            };
            if self.kinds.contains_key(&shape) && before != value {
                changes.push(CanvasChange::Property { shape, property, value });
            }
        }
        changes
    }

    /// The shape's name, if it is there.
    fn named(&self, shape: &str) -> Result<Arc<str>, Conflict> {
        self.kinds
            .get_key_value(shape)
            .map(|(name, _)| Arc::clone(name))
            .ok_or_else(|| Conflict::new(format!("no shape {shape:?} on a canvas of {}", self.len())))
    }
}

impl Document for Canvas {
    const KIND: &'static str = "canvas";
    const MODEL: Model = Model::Commutative;
    type Fragment = Bytes;
    type Change = Vec<CanvasChange>;

    shared!(CanvasShape);
}

undoable!(Canvas);

/// Where a shape goes: above one, below one; at an end where there is none.
#[derive(Clone, Copy)]
enum Place<'a> {
    Above(Option<&'a Arc<str>>),
    Below(Option<&'a Arc<str>>),
}

impl Draft<'_, Canvas> {
    /// Adds a shape on top of the others, and says what it is called.
    ///
    /// # Errors
    /// [`Conflict`]: a value is nested too deep; or there is no room, or no replica number. Nothing has changed.
    pub fn add<'k>(
        &mut self,
        kind: &str,
        properties: impl IntoIterator<Item = (&'k str, Value)>,
    ) -> Result<Arc<str>, Conflict> {
        let properties = properties.into_iter().map(|(name, value)| Ok((name, value.to_any()?)));
        let properties = properties.collect::<Result<Vec<_>, Conflict>>()?;
        let name: Arc<str> = self.engine.fresh(0).into();
        let keys = self.keys(&name, Place::Above(None))?;
        self.change(1 + properties.len() + keys.len(), |txn, shape| {
            shape.kinds.insert(txn, Arc::clone(&name), kind);
            for (property, value) in properties {
                shape.properties.insert(txn, key(&name, property), value);
            }
            order(txn, shape, &keys);
        })?;
        Ok(name)
    }

    /// Removes a shape.
    ///
    /// # Errors
    /// [`Conflict`]: it is not there; or there is no replica number. Nothing has changed.
    pub fn remove(&mut self, shape: &str) -> Result<(), Conflict> {
        let name = self.named(shape)?;
        let properties: Vec<_> =
            self.properties_of(&name).map(|(property, _)| key(&name, property)).collect();
        self.change(0, |txn, shape| {
            shape.kinds.remove(txn, &name);
            shape.order.remove(txn, &name);
            properties.iter().for_each(|key| drop(shape.properties.remove(txn, key)));
        })
    }

    /// Gives a property of a shape a value.
    ///
    /// # Errors
    /// [`Conflict`]: the shape is not there; the value is nested too deep; or there is no room, or no replica number. Nothing has changed.
    pub fn set(&mut self, shape: &str, property: &str, value: impl Into<Value>) -> Result<(), Conflict> {
        let name = self.named(shape)?;
        let any = value.into().to_any()?;
        self.change(1, |txn, shape| {
            shape.properties.insert(txn, key(&name, property), any);
        })
    }

    /// Takes a property's value away. `false` if it had none.
    ///
    /// # Errors
    /// [`Conflict`]: the shape is not there; or there is no replica number. Nothing has changed.
    pub fn unset(&mut self, shape: &str, property: &str) -> Result<bool, Conflict> {
        let name = self.named(shape)?;
        if !self.properties.contains_key(&(Arc::clone(&name), property.into())) {
            return Ok(false);
        }
        self.change(0, |txn, shape| drop(shape.properties.remove(txn, &key(&name, property))))?;
        Ok(true)
    }

    /// Puts a shape above all others.
    ///
    /// # Errors
    /// [`Conflict`]: it is not there; or there is no room, or no replica number. Nothing has changed.
    pub fn bring_to_front(&mut self, shape: &str) -> Result<(), Conflict> {
        self.put(shape, Place::Above(None))
    }

    /// Puts a shape below all others.
    ///
    /// # Errors
    /// [`Conflict`], as for [`bring_to_front`](Self::bring_to_front).
    pub fn send_to_back(&mut self, shape: &str) -> Result<(), Conflict> {
        self.put(shape, Place::Below(None))
    }

    /// Puts a shape right above another.
    ///
    /// # Errors
    /// [`Conflict`]: one of them is not there, or they are the same; or there is no room, or no replica number. Nothing has changed.
    pub fn put_above(&mut self, shape: &str, other: &str) -> Result<(), Conflict> {
        let other = self.other(shape, other)?;
        self.put(shape, Place::Above(Some(&other)))
    }

    /// Puts a shape right below another.
    ///
    /// # Errors
    /// [`Conflict`], as for [`put_above`](Self::put_above).
    pub fn put_below(&mut self, shape: &str, other: &str) -> Result<(), Conflict> {
        let other = self.other(shape, other)?;
        self.put(shape, Place::Below(Some(&other)))
    }

    fn other(&self, shape: &str, other: &str) -> Result<Arc<str>, Conflict> {
        if shape == other {
            return Err(Conflict::new(format!("shape {shape:?} is neither above nor below itself")));
        }
        self.named(other)
    }

    fn put(&mut self, shape: &str, place: Place<'_>) -> Result<(), Conflict> {
        let name = self.named(shape)?;
        let keys = self.keys(&name, place)?;
        self.change(keys.len(), |txn, shape| order(txn, shape, &keys))
    }

    /// The keys that put a shape at a place: its own, or everyone's where there is no room.
    fn keys(&self, shape: &Arc<str>, place: Place<'_>) -> Result<Vec<(Arc<str>, String)>, Conflict> {
        let other = |entry: &&(String, Arc<str>)| entry.1 != *shape;
        let (below, above) = match place {
            Place::Above(None) => (self.stack.iter().rfind(other), None),
            Place::Below(None) => (None, self.stack.iter().find(other)),
            Place::Above(Some(name)) => {
                let mut from = self.stack.range(self.place(name)..);
                (from.next(), from.find(other))
            }
            Place::Below(Some(name)) => {
                let at = self.place(name);
                (self.stack.range(..&at).rfind(other), self.stack.get(&at))
            }
        };
        let key = |entry: Option<&'_ (String, Arc<str>)>| entry.map(|(key, _)| key.as_str().to_owned());
        let (low, high) = (key(below), key(above));
        let chance = self.engine.chance();
        if let Some(key) = fraction::between(low.as_deref(), high.as_deref(), chance) {
            return Ok(vec![(Arc::clone(shape), key)]);
        }
        let mut names: Vec<_> = self.stack.iter().filter(other).map(|(_, name)| Arc::clone(name)).collect();
        let index =
            below.map_or(0, |(_, below)| names.iter().position(|name| name == below).map_or(0, |at| at + 1));
        names.insert(index, Arc::clone(shape));
        let keys = fraction::spread(names.len(), chance).ok_or_else(|| Conflict::new("too many shapes"))?;
        Ok(names.into_iter().zip(keys).collect())
    }

    fn change(
        &mut self,
        units: usize,
        change: impl FnOnce(&mut TransactionMut<'_>, &CanvasShape),
    ) -> Result<(), Conflict> {
        let first = self.parts.is_empty();
        let ((), fragment) = self.document.engine.edit(first, units, change)?;
        let change = self.document.follow();
        self.record(fragment, change);
        Ok(())
    }
}

fn key(shape: &str, property: &str) -> String {
    format!("{shape},{property}")
}

fn order(txn: &mut TransactionMut<'_>, canvas: &CanvasShape, keys: &[(Arc<str>, String)]) {
    for (name, key) in keys {
        canvas.order.insert(txn, Arc::clone(name), key.as_str());
    }
}
