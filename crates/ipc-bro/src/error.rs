//! One error for whoever calls, one for whoever answers.

use bro_proto::{ErrorBody, ErrorCode};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Who said that a call or an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FailedBy {
    /// This process: a timeout, a lost connection, a value that could not be encoded or decoded.
    Local,
    /// The gateway: an unknown service, a refused registration, a callee that died.
    Gateway,
    /// The service of that name: its handler failed, or it does not have the method.
    Service(String),
}

/// Why a call or an operation failed. Cheap to clone.
///
/// Programs compare [`Error::code`]; people read the text. The text of an underlying error is not repeated in it:
/// follow [`std::error::Error::source`].
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    code: ErrorCode,
    message: String,
    details: Option<String>,
    failed_by: FailedBy,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// The code, as in the readme's `IPCErrorCode`, or one of a handler's own ([`ErrorCode::Custom`]).
    pub fn code(&self) -> &ErrorCode {
        &self.0.code
    }

    /// What happened, for people, without the code.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the remote side added for people, such as its stack trace.
    pub fn details(&self) -> Option<&str> {
        self.0.details.as_deref()
    }

    /// Who reported the failure.
    ///
    /// An error counts as the gateway's when the gateway answered in the callee's place, whatever its code: a callee that
    /// passes on `SERVICE_NOT_FOUND` from a nested call of its own has failed itself.
    pub fn failed_by(&self) -> &FailedBy {
        &self.0.failed_by
    }

    pub(crate) fn local(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::build(code, message.into(), None, FailedBy::Local, None)
    }

    pub(crate) fn caused(
        code: ErrorCode,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::build(code, message.into(), None, FailedBy::Local, Some(source.into()))
    }

    pub(crate) fn from_body(body: ErrorBody, failed_by: FailedBy) -> Self {
        let code = body.code.unwrap_or(ErrorCode::ExecutionFailed);
        Self::build(code, body.message, body.stack, failed_by, None)
    }

    fn build(
        code: ErrorCode,
        message: String,
        details: Option<String>,
        failed_by: FailedBy,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { code, message, details, failed_by, source }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Error");
        fields.field("code", &self.0.code).field("message", &self.0.message).field("failed_by", &self.0.failed_by);
        if let Some(details) = &self.0.details {
            fields.field("details", details);
        }
        if let Some(source) = &self.0.source {
            fields.field("source", source);
        }
        fields.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// What a handler answers instead of a result: a code for the calling program, a message for people.
///
/// Every [`std::error::Error`] converts into one, so `?` works in handlers: the code is then `EXECUTION_FAILED`,
/// except that an [`struct@Error`] of ours, as a nested call returns it, keeps its own. For the same reason (as with
/// `anyhow::Error`) this type is not a `std::error::Error` itself, and plain text becomes one by
/// [`HandlerError::failed`].
///
/// ```
/// use ipc_bro::HandlerError;
///
/// fn quantity(text: &str) -> Result<u32, HandlerError> {
///     let quantity: u32 = text.parse()?; // EXECUTION_FAILED
///     if quantity > 9 {
///         return Err(HandlerError::new("OUT_OF_STOCK", format!("{quantity} wanted, 9 left")));
///     }
///     Ok(quantity)
/// }
/// assert_eq!(quantity("many").unwrap_err().code().as_str(), "EXECUTION_FAILED");
/// assert_eq!(quantity("10").unwrap_err().code().as_str(), "OUT_OF_STOCK");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError {
    code: ErrorCode,
    message: String,
    details: Option<String>,
}

impl HandlerError {
    /// An error with a code of ipc-bro's ([`ErrorCode`]) or of your own (`"OUT_OF_STOCK"`).
    pub fn new(code: impl Into<ErrorCode>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), details: None }
    }

    /// `EXECUTION_FAILED` with a message.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ExecutionFailed, message)
    }

    /// Adds what the caller finds in [`Error::details`] (`stack` on the wire).
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// The code.
    pub fn code(&self) -> &ErrorCode {
        &self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The details.
    pub fn details(&self) -> Option<&str> {
        self.details.as_deref()
    }

    pub(crate) fn into_body(self) -> ErrorBody {
        ErrorBody { message: self.message, code: Some(self.code), stack: self.details }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl<E: std::error::Error + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        if let Some(error) = (&error as &dyn Any).downcast_ref::<Error>() {
            return Self {
                code: error.code().clone(),
                message: error.message().to_owned(),
                details: error.details().map(str::to_owned).or_else(|| causes(error)),
            };
        }
        Self { code: ErrorCode::ExecutionFailed, message: error.to_string(), details: causes(&error) }
    }
}

/// The chain of sources, one a line; bounded, since an error may name itself as its source.
fn causes(error: &dyn std::error::Error) -> Option<String> {
    const CAUSES_MAX: usize = 32;
    let mut lines = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source.filter(|_| lines.len() < CAUSES_MAX) {
        lines.push(format!("caused by: {cause}"));
        source = cause.source();
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn display_leaves_the_source_to_the_source() {
        let cause = "x".parse::<u32>().unwrap_err();
        let error = Error::caused(ErrorCode::DeserializationFailed, "the result is of another type", cause.clone());
        assert_eq!(error.to_string(), "DESERIALIZATION_FAILED: the result is of another type");
        assert_eq!(error.source().unwrap().to_string(), cause.to_string());
    }

    #[test]
    fn a_nested_error_keeps_its_code_and_details() {
        let body =
            ErrorBody { message: "none left".into(), code: Some("OUT_OF_STOCK".into()), stack: Some("at f".into()) };
        let error = Error::from_body(body, FailedBy::Service("inventory".into()));
        let passed_on = HandlerError::from(error);
        assert_eq!(passed_on.code().as_str(), "OUT_OF_STOCK");
        assert_eq!((passed_on.message(), passed_on.details()), ("none left", Some("at f")));
    }

    #[test]
    fn any_error_becomes_execution_failed_with_its_causes() {
        let cause = std::io::Error::other("disk full");
        let error = HandlerError::from(Error::caused(ErrorCode::InternalError, "not saved", cause));
        assert_eq!((error.code(), error.details()), (&ErrorCode::InternalError, Some("caused by: disk full")));
        let error = HandlerError::from(std::io::Error::other("disk full"));
        assert_eq!((error.code(), error.message()), (&ErrorCode::ExecutionFailed, "disk full"));
    }

    #[test]
    fn an_old_callee_without_a_code_has_failed_to_execute() {
        let body = ErrorBody { message: "boom".into(), code: None, stack: None };
        assert_eq!(Error::from_body(body, FailedBy::Local).code(), &ErrorCode::ExecutionFailed);
    }
}
