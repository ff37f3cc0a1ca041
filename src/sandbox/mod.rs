//! A local provider that speaks the real wire formats, for developers, staging and tests.
