//! A driver's own error inside a [`Cause`](super::Cause).

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// What a driver says in its own terms: an error of a type of its own, or words.
///
/// A typed error is the [`source`](Error::source) of the [`BlockError`](super::BlockError) that it ends up in, through any number of nodes, so
/// that a caller can match on it:
///
/// ```
/// use block_core::{BlockError, Cause, DriverError, Op};
/// use std::error::Error;
///
/// #[derive(Clone, Debug, PartialEq)]
/// struct WrongKey { slot: u8 }
///
/// impl std::fmt::Display for WrongKey {
///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
///         write!(f, "no key fits slot {}", self.slot)
///     }
/// }
/// impl Error for WrongKey {}
///
/// let cause = Cause::Driver(DriverError::new(WrongKey { slot: 3 }));
/// let error = BlockError::new(Op::Read, 0, 512, cause);
/// let source = error.source().and_then(|source| source.downcast_ref::<WrongKey>());
/// assert_eq!(source, Some(&WrongKey { slot: 3 }));
/// ```
#[derive(Clone)]
pub struct DriverError(Detail);

#[derive(Clone)]
enum Detail {
    Words(Cow<'static, str>),
    Typed(Box<dyn Typed>),
}

/// An error that can be cloned: a failed save gives the same error to every later call.
trait Typed: Error + Send + Sync {
    fn boxed(&self) -> Box<dyn Typed>;
    fn error(&self) -> &(dyn Error + Send + Sync + 'static);
}

impl<T: Error + Clone + Send + Sync + 'static> Typed for T {
    fn boxed(&self) -> Box<dyn Typed> {
        Box::new(self.clone())
    }

    fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }
}

impl Clone for Box<dyn Typed> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

impl DriverError {
    /// Keeps `error` whole.
    pub fn new(error: impl Error + Clone + Send + Sync + 'static) -> Self {
        Self(Detail::Typed(Box::new(error)))
    }

    /// The typed error; `None` if there are only words.
    pub fn get(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        match &self.0 {
            Detail::Words(_) => None,
            Detail::Typed(error) => Some((**error).error()),
        }
    }

    /// The typed error, if it is a `T`.
    pub fn downcast_ref<T: Error + 'static>(&self) -> Option<&T> {
        self.get()?.downcast_ref()
    }
}

impl From<&'static str> for DriverError {
    fn from(words: &'static str) -> Self {
        Self(Detail::Words(words.into()))
    }
}

impl From<String> for DriverError {
    fn from(words: String) -> Self {
        Self(Detail::Words(words.into()))
    }
}

/// Two are equal if they print the same.
impl PartialEq for DriverError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for DriverError {}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Detail::Words(words) => f.write_str(words),
            Detail::Typed(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl fmt::Debug for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Detail::Words(words) => fmt::Debug::fmt(words, f),
            Detail::Typed(error) => fmt::Debug::fmt(error, f),
        }
    }
}
