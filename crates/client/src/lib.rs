//! The Client seam (the same kube client in process or over TLS), shared informers and the work they wake.
