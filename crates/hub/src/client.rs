//! The model hub and other servers, over HTTPS.
