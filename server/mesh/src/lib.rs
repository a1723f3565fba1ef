//! Istio's and Kubernetes' objects to proxy configuration, as a pure function of a view.
