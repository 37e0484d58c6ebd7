//! What services on top of an endpoint keep with it.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// What services on top of an endpoint keep with it, one value of each type: it goes when the endpoint's last handle does.
///
/// Documents keep there which ones are open. A service of your own can do the same:
///
/// ```no_run
/// use std::sync::Arc;
/// use std::sync::atomic::AtomicU64;
/// use zincmq::prelude::*;
///
/// #[derive(Debug, Default)]
/// struct Requests(AtomicU64);
///
/// fn requests(endpoint: &dyn Endpoint) -> Arc<Requests> {
///     endpoint.extensions().get_or_insert_with(Requests::default)
/// }
/// ```
#[derive(Default)]
pub struct Extensions(Mutex<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl Extensions {
    /// The value of this type; made, where there is none yet. `make` must not ask for extensions itself.
    pub fn get_or_insert_with<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut values = lock(&self.0);
        let value = values.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(make()));
        match Arc::clone(value).downcast() {
            Ok(value) => value,
            Err(_) => unreachable!("values are kept by their type"),
        }
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extensions").finish_non_exhaustive()
    }
}
