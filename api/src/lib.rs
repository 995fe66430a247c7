//! Kubernetes objects on the wire: slim values, names, selectors, the schema table. No I/O.
