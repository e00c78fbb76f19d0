//! Names, quantities, selectors, schemas, patches and errors of the Kubernetes API, as pure values.
