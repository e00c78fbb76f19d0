//! Requests for the objects of one kind: `crate::Api` in the part that knarr uses, with code that is compiled once and not once for
//! every kind (see [`api::Json`]).

use std::fmt::Debug;
use std::marker::PhantomData;

use ::api::Json;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube_core::{Request, params::{DeleteParams, ListParams, Patch, PatchParams, PostParams}};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::feed::ListMeta;

/// The objects of kind `K`, of one namespace or of all. Cheap to clone.
pub struct Api<K> {
    client: crate::Client,
    request: Request,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), request: self.request.clone(), kind: PhantomData }
    }
}

impl<K> Debug for Api<K> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Api").field(&self.request.url_path).finish()
    }
}

/// What a list request answers.
#[derive(Debug, Clone)]
pub struct Listing<K> {
    /// Revision, and where to go on.
    pub metadata: ListMeta,
    /// The objects.
    pub items: Vec<K>,
}

impl<K> IntoIterator for Listing<K> {
    type Item = K;
    type IntoIter = std::vec::IntoIter<K>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

/// A list before its objects are read.
#[derive(serde::Deserialize)]
struct RawListing<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}

impl<K: Json> Listing<K> {
    /// Reads a list as the API sends it.
    ///
    /// # Errors
    /// Where it is none, or an object is not of the kind.
    pub fn from_json(text: &str) -> crate::Result<Self> {
        Self::read(text, K::from_json)
    }

    /// As [`Listing::from_json`], but the objects come without managed fields.
    ///
    /// # Errors
    /// As there.
    pub fn from_json_unmanaged(text: &str) -> crate::Result<Self> {
        Self::read(text, K::from_json_unmanaged)
    }

    fn read(text: &str, read: fn(&[u8]) -> serde_json::Result<K>) -> crate::Result<Self> {
        let raw: RawListing<'_> = serde_json::from_str(text).map_err(crate::Error::SerdeError)?;
        let items = raw.items.unwrap_or_default();
        let items = items.into_iter().map(|item| read(item.get().as_bytes()).map_err(crate::Error::SerdeError));
        Ok(Self { metadata: raw.metadata, items: items.collect::<crate::Result<_>>()? })
    }
}

/// A request and the text that answers it. Boxed, so that the code behind it is this crate's alone.
pub fn exchange(client: &crate::Client, request: http::Request<Vec<u8>>) -> BoxFuture<'static, crate::Result<String>> {
    let client = client.clone();
    async move { client.request_text(request).await }.boxed()
}

fn built<T>(request: Result<T, kube_core::request::Error>) -> crate::Result<T> {
    request.map_err(crate::Error::BuildRequest)
}

fn read<K: Json>(text: &str) -> crate::Result<K> {
    K::from_json(text.as_bytes()).map_err(crate::Error::SerdeError)
}

impl<K: Json + kube_core::Resource<DynamicType = ()>> Api<K> {
    /// Objects of all namespaces, or of a kind that has none.
    pub fn all(client: crate::Client) -> Self {
        Self { client, request: Request::new(K::url_path(&(), None)), kind: PhantomData }
    }
    /// Objects of one namespace.
    pub fn namespaced(client: crate::Client, namespace: &str) -> Self {
        Self { client, request: Request::new(K::url_path(&(), Some(namespace))), kind: PhantomData }
    }
}

#[allow(clippy::missing_errors_doc, reason = "every error is what the API answered, or that it did not answer")]
impl<K: Json> Api<K> {
    async fn ask(&self, request: http::Request<Vec<u8>>) -> crate::Result<K> {
        read(&exchange(&self.client, request).await?)
    }

    /// One object.
    pub async fn get(&self, name: &str) -> crate::Result<K> {
        self.ask(built(self.request.get(name, &kube_core::params::GetParams::default()))?).await
    }
    /// One object; none where it does not exist.
    pub async fn get_opt(&self, name: &str) -> crate::Result<Option<K>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if crate::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
    /// All objects that the parameters select.
    pub async fn list(&self, parameters: &ListParams) -> crate::Result<Listing<K>> {
        Listing::from_json(&exchange(&self.client, built(self.request.list(parameters))?).await?)
    }
    /// Makes an object, and returns it as the API stored it.
    pub async fn create(&self, parameters: &PostParams, object: &K) -> crate::Result<K> {
        let body = object.to_json().map_err(crate::Error::SerdeError)?;
        self.ask(built(self.request.create(parameters, body))?).await
    }
    /// Makes a subresource of an object, which has a kind of its own.
    pub async fn create_subresource<S: Json>(&self, subresource: &str, name: &str, parameters: &PostParams, object: &S) -> crate::Result<S> {
        let body = object.to_json().map_err(crate::Error::SerdeError)?;
        read(&exchange(&self.client, built(self.request.create_subresource(subresource, name, parameters, body))?).await?)
    }
    /// Puts an object in the place of the one with its name.
    pub async fn replace(&self, name: &str, parameters: &PostParams, object: &K) -> crate::Result<K> {
        let body = object.to_json().map_err(crate::Error::SerdeError)?;
        self.ask(built(self.request.replace(name, parameters, body))?).await
    }
    /// Puts an object's status in the place of what it had.
    pub async fn replace_status(&self, name: &str, parameters: &PostParams, object: &K) -> crate::Result<K> {
        self.replace_subresource("status", name, parameters, object).await
    }
    /// Puts an object's subresource, of the object's own kind, in the place of what it had.
    pub async fn replace_subresource(&self, subresource: &str, name: &str, parameters: &PostParams, object: &K) -> crate::Result<K> {
        let body = object.to_json().map_err(crate::Error::SerdeError)?;
        self.ask(built(self.request.replace_subresource(subresource, name, parameters, body))?).await
    }
    /// Changes an object.
    pub async fn patch<P: Serialize + Debug>(&self, name: &str, parameters: &PatchParams, patch: &Patch<P>) -> crate::Result<K> {
        self.ask(built(self.request.patch(name, parameters, patch))?).await
    }
    /// Changes an object's status.
    pub async fn patch_status<P: Serialize + Debug>(&self, name: &str, parameters: &PatchParams, patch: &Patch<P>) -> crate::Result<K> {
        self.patch_subresource("status", name, parameters, patch).await
    }
    /// Changes a subresource, of the object's own kind.
    pub async fn patch_subresource<P: Serialize + Debug>(&self, subresource: &str, name: &str, parameters: &PatchParams, patch: &Patch<P>) -> crate::Result<K> {
        self.ask(built(self.request.patch_subresource(subresource, name, parameters, patch))?).await
    }
    /// Asks for an object to go; finalizers and a grace period may keep it for a while.
    pub async fn delete(&self, name: &str, parameters: &DeleteParams) -> crate::Result<()> {
        exchange(&self.client, built(self.request.delete(name, parameters))?).await.map(drop)
    }
    /// Asks for all objects to go that the list parameters select.
    pub async fn delete_collection(&self, parameters: &DeleteParams, selected: &ListParams) -> crate::Result<()> {
        exchange(&self.client, built(self.request.delete_collection(parameters, selected))?).await.map(drop)
    }
}
