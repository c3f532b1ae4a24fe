//! The data plane: one worker thread per CPU; nothing on it is shared, locked or `Send`.
