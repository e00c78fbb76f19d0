//! The API server: authentication, authorization, admission, the generic handler, watch, discovery and custom resources.
