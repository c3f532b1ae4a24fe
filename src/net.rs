//! What both planes share of the wire below HTTP: addresses, socket files and the PROXY protocol. No request, no route.

pub mod address;
pub mod descriptors;
pub mod inherited;
pub mod proxy_protocol;
pub mod socket_file;
