//! Error codes and the error object that travels on the wire.

use std::fmt;

/// Why a call or an operation failed, as programs compare it.
///
/// The first fourteen are the codes of the JavaScript library's `IPCErrorCode`. A handler may answer with any code
/// of its own: it arrives as [`ErrorCode::Custom`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The gateway could not be reached.
    ConnectionFailed,
    /// The connection that the call depended on was lost; whether the call was carried out is unknown.
    ConnectionLost,
    /// The client is not connected.
    NotConnected,
    /// No live instance of that service is registered.
    ServiceNotFound,
    /// The service does not have that method.
    MethodNotFound,
    /// The handler failed without a code of its own.
    ExecutionFailed,
    /// No answer came in time.
    Timeout,
    /// The deadline had already passed when the call was made or routed.
    DeadlineExceeded,
    /// A message broke the protocol.
    InvalidMessage,
    /// A value could not be encoded.
    SerializationFailed,
    /// A value could not be decoded.
    DeserializationFailed,
    /// The call context is not valid.
    InvalidContext,
    /// The call chain is too deep.
    MaxDepthExceeded,
    /// A defect in ipc-bro itself.
    InternalError,
    /// Another live connection holds that service name.
    DuplicateService,
    /// A call came before REGISTER.
    NotRegistered,
    /// A frame, name or queue is larger than its limit.
    PayloadTooLarge,
    /// The callee has too much unread already.
    Overloaded,
    /// A count is at its limit.
    ResourceExhausted,
    /// The gateway or the service is shutting down.
    ShuttingDown,
    /// The caller gave up.
    Cancelled,
    /// The name or the method is not open to this peer.
    PermissionDenied,
    /// An argument or an option is not acceptable.
    InvalidArgument,
    /// A code of a handler's own.
    Custom(Box<str>),
}

macro_rules! codes {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        impl ErrorCode {
            /// Every code that ipc-bro itself uses.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),+];

            /// The code as it stands on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(ErrorCode::$variant => $text,)+
                    ErrorCode::Custom(code) => code,
                }
            }
        }

        impl From<&str> for ErrorCode {
            fn from(text: &str) -> Self {
                match text {
                    $($text => ErrorCode::$variant,)+
                    other => ErrorCode::Custom(other.into()),
                }
            }
        }
    };
}

codes! {
    ConnectionFailed = "CONNECTION_FAILED",
    ConnectionLost = "CONNECTION_LOST",
    NotConnected = "NOT_CONNECTED",
    ServiceNotFound = "SERVICE_NOT_FOUND",
    MethodNotFound = "METHOD_NOT_FOUND",
    ExecutionFailed = "EXECUTION_FAILED",
    Timeout = "TIMEOUT",
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    InvalidMessage = "INVALID_MESSAGE",
    SerializationFailed = "SERIALIZATION_FAILED",
    DeserializationFailed = "DESERIALIZATION_FAILED",
    InvalidContext = "INVALID_CONTEXT",
    MaxDepthExceeded = "MAX_DEPTH_EXCEEDED",
    InternalError = "INTERNAL_ERROR",
    DuplicateService = "DUPLICATE_SERVICE",
    NotRegistered = "NOT_REGISTERED",
    PayloadTooLarge = "PAYLOAD_TOO_LARGE",
    Overloaded = "OVERLOADED",
    ResourceExhausted = "RESOURCE_EXHAUSTED",
    ShuttingDown = "SHUTTING_DOWN",
    Cancelled = "CANCELLED",
    PermissionDenied = "PERMISSION_DENIED",
    InvalidArgument = "INVALID_ARGUMENT",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `error` object of a RESPONSE or an ERROR frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    /// For people.
    pub message: String,
    /// For programs. Absent when an old callee threw an error without a code.
    pub code: Option<ErrorCode>,
    /// The remote stack, if the callee sent one.
    pub stack: Option<String>,
}

impl ErrorBody {
    /// An error with a code and no stack.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { message: message.into(), code: Some(code), stack: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_through_their_text() {
        for code in ErrorCode::ALL {
            assert_eq!(&ErrorCode::from(code.as_str()), code);
        }
        assert_eq!(ErrorCode::from("OUT_OF_STOCK"), ErrorCode::Custom("OUT_OF_STOCK".into()));
    }
}
