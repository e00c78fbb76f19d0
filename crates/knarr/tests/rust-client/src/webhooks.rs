//! Admission of Hives, over HTTPS.

use std::{convert::Infallible, path::Path, sync::Arc};

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tokio::net::TcpListener;

/// As many bees as a hive may have.
pub const MOST_BEES: u64 = 1000;

fn judge(path: &str, request: &AdmissionRequest<DynamicObject>) -> anyhow::Result<AdmissionResponse> {
    let answer = AdmissionResponse::from(request);
    // A deletion has no object.
    let Some(hive) = &request.object else { return Ok(answer) };
    if path == "/validate" {
        let too_many = hive.data["spec"]["bees"].as_u64().is_some_and(|bees| bees > MOST_BEES);
        return Ok(if too_many { answer.deny(format!("a hive has at most {MOST_BEES} bees")) } else { answer });
    }
    if hive.data["spec"]["keeper"].is_string() {
        return Ok(answer);
    }
    let patch = json!([{"op": "add", "path": "/spec/keeper", "value": request.user_info.username}]);
    Ok(answer.with_patch(serde_json::from_value(patch)?)?)
}

async fn answer(request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(&body)?;
    let request: AdmissionRequest<DynamicObject> = review.try_into()?;
    let review = judge(&path, &request)?.into_review();
    Ok(Response::builder().header("content-type", "application/json").body(Full::from(serde_json::to_vec(&review)?))?)
}

/// Serves with the certificate and key of a directory.
pub async fn serve(directory: &Path) -> anyhow::Result<()> {
    let chain = CertificateDer::pem_file_iter(directory.join("tls.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(directory.join("tls.key"))?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("0.0.0.0:8443").await.context("port 8443")?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A probe connects and says nothing.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| async {
                let answer = answer(request).await.unwrap_or_else(|error| {
                    let mut refused = Response::new(Full::from(error.to_string()));
                    *refused.status_mut() = hyper::StatusCode::BAD_REQUEST;
                    refused
                });
                Ok::<_, Infallible>(answer)
            });
            if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}
