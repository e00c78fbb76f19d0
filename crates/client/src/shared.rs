//! Watches in process: the API server hands its own objects over instead of their text, and what one informer made of an object all
//! others find there. Who asks, and whether he may watch what he asks for, is looked at as for every request.
//!
//! A feed that can take objects says so with [`Wanted`], an extension of its request, which no request from outside can have; the answer
//! then has an extension [`Handover`] in the place of a body.

use std::any::Any;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::stream::BoxStream;
use parking_lot::Mutex;

use crate::{Shorten, Watchable};

/// Asks for objects instead of text.
#[derive(Debug, Clone, Copy)]
pub struct Wanted;

/// An object that is kept as text, with what it was last read as.
pub trait Shared: Send + Sync + 'static {
    /// Its JSON.
    fn text(&self) -> Bytes;
    /// What it was read as.
    fn decoded(&self) -> &Decoded;
}

/// What an object was read as, for as long as a reader keeps it: in each form that was asked for.
#[derive(Default)]
pub struct Decoded(Mutex<Vec<Form>>);

struct Form {
    /// Where the function is that shortened it; zero where none did.
    shortened_by: usize,
    object: Weak<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Decoded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "decoded: {}", self.0.lock().iter().any(|form| form.object.strong_count() > 0))
    }
}

/// The object in the form of a kind, without managed fields and what `shorten` takes away: read once, however many want it.
///
/// # Errors
/// Where the text is not of the kind.
pub fn read<K: Watchable>(object: &dyn Shared, shorten: Option<Shorten<K>>) -> serde_json::Result<Arc<K>> {
    let shortened_by = shorten.map_or(0, |shorten| shorten as usize);
    // Held while it is read: whoever wants the same waits for it rather than reading it too.
    let mut forms = object.decoded().0.lock();
    let same = forms.iter().filter(|form| form.shortened_by == shortened_by);
    if let Some(found) = same.filter_map(|form| form.object.upgrade()?.downcast::<K>().ok()).next() {
        return Ok(found);
    }
    let mut read = K::from_json_unmanaged(&object.text())?;
    if let Some(shorten) = shorten {
        shorten(&mut read);
    }
    let read = Arc::new(read);
    let any: Arc<dyn Any + Send + Sync> = read.clone();
    forms.retain(|form| form.object.strong_count() > 0);
    // Most objects have one form, and there are many objects.
    forms.reserve_exact(1);
    forms.push(Form { shortened_by, object: Arc::downgrade(&any) });
    Ok(read)
}

/// One event of a watch in process.
pub enum Handed {
    /// An object was created or changed.
    Put(Arc<dyn Shared>),
    /// An object is gone; this is its last state, with the revision of the removal.
    Deleted(Arc<dyn Shared>),
    /// Whatever else there is to tell, as a line of an ordinary watch.
    Line(Bytes),
}

/// The events of a watch in process, for one reader.
#[derive(Clone)]
pub struct Handover(Arc<Mutex<Option<BoxStream<'static, Handed>>>>);

impl Handover {
    /// Hands these over.
    pub fn new(events: BoxStream<'static, Handed>) -> Self {
        Self(Arc::new(Mutex::new(Some(events))))
    }
    /// Takes them; whoever comes second finds none.
    pub fn take(&self) -> Option<BoxStream<'static, Handed>> {
        self.0.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};

    struct Text(&'static str, Decoded);

    impl Shared for Text {
        fn text(&self) -> Bytes {
            Bytes::from_static(self.0.as_bytes())
        }
        fn decoded(&self) -> &Decoded {
            &self.1
        }
    }

    #[test]
    fn an_object_is_read_once_for_all_who_keep_it() {
        let text = Text(r#"{"metadata":{"name":"a","managedFields":[{"manager":"m"}]}}"#, Decoded::default());
        let first: Arc<ConfigMap> = read(&text, None).unwrap();
        assert_eq!((first.metadata.name.as_deref(), &first.metadata.managed_fields), (Some("a"), &None));
        assert!(Arc::ptr_eq(&first, &read(&text, None).unwrap()));
        assert_eq!(format!("{:?}", text.1), "decoded: true");
        drop(first);
        assert_eq!(format!("{:?}", text.1), "decoded: false", "what nobody keeps is not kept here");
        assert_eq!(read::<Secret>(&text, None).unwrap().metadata.name.as_deref(), Some("a"));
        assert!(read::<ConfigMap>(&Text("{", Decoded::default()), None).is_err());
    }

    #[test]
    fn whole_and_shortened_objects_are_kept_beside_each_other() {
        let text = Text(r#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#, Decoded::default());
        let shorten: Shorten<ConfigMap> = |map| map.data = None;
        let (whole, short) = (read::<ConfigMap>(&text, None).unwrap(), read::<ConfigMap>(&text, Some(shorten)).unwrap());
        assert_eq!((whole.data.is_some(), short.data.is_some()), (true, false));
        assert!(Arc::ptr_eq(&whole, &read(&text, None).unwrap()) && Arc::ptr_eq(&short, &read(&text, Some(shorten)).unwrap()));
    }
}
