//! The size of anything that has one, of whatever kind: the `scale` subresource.

use controller::{Doing, ReconcileError};
use k8s_openapi::api::autoscaling::v1::Scale;
use client::{PostParams, Request};

use crate::discovery::{ServedResource, served_resources};

/// Where the scale of an object is.
pub struct ScalePlace {
    /// The resource of the object.
    pub resource: ServedResource,
    namespace: String,
    name: String,
}

/// Finds where the scale of an object is. `None` when no such kind is served.
pub async fn find(client: &client::Client, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Option<ScalePlace>, ReconcileError> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let served = served_resources(client).await?;
    let resource = served.into_iter().find(|resource| resource.group == group && resource.kind == kind);
    Ok(resource.map(|resource| ScalePlace { resource, namespace: namespace.to_owned(), name: name.to_owned() }))
}

impl ScalePlace {
    fn request(&self) -> Request {
        Request::new(self.resource.path(Some(&self.namespace)))
    }

    /// Reads it.
    pub async fn read(&self, client: &client::Client) -> client::Result<Scale> {
        let request = self.request().get_subresource("scale", &self.name).map_err(client::Error::BuildRequest)?;
        client.request(request).await
    }

    /// Writes it, provided that it was not changed meanwhile.
    pub async fn write(&self, client: &client::Client, scale: &Scale) -> Result<Scale, ReconcileError> {
        let body = serde_json::to_vec(scale).map_err(client::Error::SerdeError);
        let request = body.and_then(|body| self.request().replace_subresource("scale", &self.name, &PostParams::default(), body).map_err(client::Error::BuildRequest));
        let written = match request {
            Ok(request) => client.request(request).await,
            Err(error) => Err(error),
        };
        written.doing(|| format!("resize {} {}/{}", self.resource.name(), self.namespace, self.name))
    }
}
