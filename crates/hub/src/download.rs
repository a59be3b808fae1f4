//! Fetches the chunks of a model.
