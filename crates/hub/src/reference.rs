//! What a user may type as a model's name.
