//! Node-API, as far as it is needed, with types instead of out-parameters.
//!
//! Failing calls give `None`: they fail when the environment is being torn down, or when an exception is pending, and then there
//! is nothing to do but to return.

use napi_sys::{self as sys, Status, napi_callback_info, napi_env, napi_value};
use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

/// One JavaScript environment: the main one, or that of a worker thread.
#[derive(Clone, Copy)]
pub(crate) struct Env(pub(crate) napi_env);

/// A value, valid until the present callback returns.
pub(crate) type Value = napi_value;

/// Evaluates a Node-API call with one out-parameter at its end.
macro_rules! call {
    ($function:ident($($argument:expr),*) -> $out:ty) => {{
        let mut out = std::mem::MaybeUninit::<$out>::uninit();
        // SAFETY: the arguments have the types that the function asks for, and live longer than the call.
        let status = unsafe { sys::$function($($argument,)* out.as_mut_ptr()) };
        if status == Status::napi_ok {
            // SAFETY: after `napi_ok` the out-parameter is written.
            Some(unsafe { out.assume_init() })
        } else {
            None
        }
    }};
}

impl Env {
    pub(crate) fn undefined(self) -> Value {
        call!(napi_get_undefined(self.0) -> Value).unwrap_or(null_mut())
    }

    pub(crate) fn int(self, number: i32) -> Option<Value> {
        call!(napi_create_int32(self.0, number) -> Value)
    }

    /// A string of UTF-8. ASCII, the usual case, is copied without looking at it again.
    pub(crate) fn string(self, utf8: &[u8]) -> Option<Value> {
        let (text, length) = (utf8.as_ptr().cast::<c_char>(), isize::try_from(utf8.len()).ok()?);
        if utf8.is_ascii() {
            call!(napi_create_string_latin1(self.0, text, length) -> Value)
        } else {
            call!(napi_create_string_utf8(self.0, text, length) -> Value)
        }
    }

    /// A `Buffer` with a copy of the bytes.
    pub(crate) fn buffer(self, bytes: &[u8]) -> Option<Value> {
        call!(napi_create_buffer_copy(self.0, bytes.len(), bytes.as_ptr().cast(), null_mut()) -> Value)
    }

    pub(crate) fn array(self, items: &[Value]) -> Option<Value> {
        let array = call!(napi_create_array_with_length(self.0, items.len()) -> Value)?;
        for (index, item) in (0..).zip(items) {
            // SAFETY: both values are live.
            unsafe { sys::napi_set_element(self.0, array, index, *item) };
        }
        Some(array)
    }

    pub(crate) fn element(self, array: Value, index: u32) -> Option<Value> {
        call!(napi_get_element(self.0, array, index) -> Value)
    }

    pub(crate) fn as_int(self, value: Value) -> Option<i32> {
        call!(napi_get_value_int32(self.0, value) -> i32)
    }

    /// The elements of an `Int32Array` or the bytes of a `Uint8Array`, as address and length in elements.
    fn typed_array<T>(self, value: Value) -> Option<(*const T, usize)> {
        let mut length = 0;
        let mut address = null_mut();
        // SAFETY: all out-parameters are either valid or null; other types of arguments are refused.
        let status = unsafe {
            sys::napi_get_typedarray_info(self.0, value, null_mut(), &mut length, &mut address, null_mut(), null_mut())
        };
        (status == Status::napi_ok && !address.is_null()).then_some((address.cast_const().cast(), length))
    }

    /// A copy of an `Int32Array`'s first elements.
    pub(crate) fn ints(self, value: Value, count: usize, out: &mut Vec<i32>) -> Option<()> {
        let (address, length) = self.typed_array::<i32>(value)?;
        // SAFETY: V8 keeps the memory in place while no JavaScript runs, and it is aligned for its elements.
        out.extend_from_slice(unsafe { std::slice::from_raw_parts(address, length.min(count)) });
        Some(())
    }

    /// A copy of a `Float64Array`'s first elements.
    pub(crate) fn doubles(self, value: Value, count: usize, out: &mut Vec<f64>) -> Option<()> {
        let (address, length) = self.typed_array::<f64>(value)?;
        // SAFETY: as in `ints`.
        out.extend_from_slice(unsafe { std::slice::from_raw_parts(address, length.min(count)) });
        Some(())
    }

    /// A copy of a `Uint8Array`'s first bytes.
    pub(crate) fn bytes(self, value: Value, count: usize, out: &mut Vec<u8>) -> Option<()> {
        let (address, length) = self.typed_array::<u8>(value)?;
        // SAFETY: as in `ints`.
        out.extend_from_slice(unsafe { std::slice::from_raw_parts(address, length.min(count)) });
        Some(())
    }

    /// The number of UTF-16 units of a string.
    pub(crate) fn string_units(self, value: Value) -> Option<usize> {
        call!(napi_get_value_string_latin1(self.0, value, null_mut(), 0) -> usize)
    }

    /// Appends a string as UTF-8. `Some(true)` when it is ASCII, so that units and bytes are the same.
    pub(crate) fn append_utf8(self, value: Value, out: &mut Vec<u8>) -> Option<bool> {
        let units = self.string_units(value)?;
        let bytes = call!(napi_get_value_string_utf8(self.0, value, null_mut(), 0) -> usize)?;
        // Every unit beyond ASCII takes more than one byte, so equal lengths mean ASCII: then a plain copy will do.
        let is_ascii = bytes == units;
        out.reserve(bytes + 1);
        let room = out.spare_capacity_mut();
        let (target, capacity) = (room.as_mut_ptr().cast::<c_char>(), bytes + 1);
        let written = if is_ascii {
            call!(napi_get_value_string_latin1(self.0, value, target, capacity) -> usize)?
        } else {
            call!(napi_get_value_string_utf8(self.0, value, target, capacity) -> usize)?
        };
        let filled = out.len() + written.min(bytes);
        // SAFETY: that many bytes were reserved and have been written.
        unsafe { out.set_len(filled) };
        Some(is_ascii)
    }

    /// Appends the UTF-16 units of a string.
    pub(crate) fn append_utf16(self, value: Value, out: &mut Vec<u16>) -> Option<()> {
        let units = self.string_units(value)?;
        out.reserve(units + 1);
        let target = out.spare_capacity_mut().as_mut_ptr().cast::<u16>();
        let written = call!(napi_get_value_string_utf16(self.0, value, target, units + 1) -> usize)?;
        let filled = out.len() + written.min(units);
        // SAFETY: that many units were reserved and have been written.
        unsafe { out.set_len(filled) };
        Some(())
    }

    /// A string as Rust has it; `None` for other values.
    pub(crate) fn text(self, value: Value) -> Option<String> {
        let mut bytes = Vec::new();
        self.append_utf8(value, &mut bytes)?;
        Some(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Calls a function as an event of its own: afterwards promises and `process.nextTick` have run. An exception becomes
    /// `uncaughtException`, as that of any callback of Node does.
    pub(crate) fn call_back(self, function: &Reference, arguments: &[Value]) {
        let Some(callee) = function.value() else { return };
        let mut this = null_mut();
        // SAFETY: an out-parameter, then live values only.
        let status = unsafe {
            if sys::napi_get_global(self.0, &mut this) != Status::napi_ok {
                return;
            }
            let (count, first) = (arguments.len(), arguments.as_ptr());
            sys::napi_make_callback(self.0, null_mut(), this, callee, count, first, null_mut())
        };
        if status == Status::napi_pending_exception {
            self.surface_exception();
        }
    }

    fn surface_exception(self) {
        // Cleared first: with an exception pending every further call would fail.
        if let Some(exception) = call!(napi_get_and_clear_last_exception(self.0) -> Value) {
            // SAFETY: a live value, and no exception is pending any more.
            unsafe { sys::napi_fatal_exception(self.0, exception) };
        }
    }

    /// Runs `body` with a scope of its own for the values that it makes.
    pub(crate) fn with_scope(self, body: impl FnOnce()) {
        let Some(scope) = call!(napi_open_handle_scope(self.0) -> sys::napi_handle_scope) else { return };
        body();
        // SAFETY: opened above; scopes that `body` opened are closed.
        unsafe { sys::napi_close_handle_scope(self.0, scope) };
    }

    /// A value that holds `content` until it is collected.
    pub(crate) fn external<T>(self, content: T) -> Option<Value> {
        let boxed = Box::into_raw(Box::new(content)).cast::<c_void>();
        let made = call!(napi_create_external(self.0, boxed, Some(finalize::<T>), null_mut()) -> Value);
        if made.is_none() {
            // SAFETY: nobody else has got it.
            drop(unsafe { Box::from_raw(boxed.cast::<T>()) });
        }
        made
    }

    /// What [`Env::external`] put into `value`.
    ///
    /// # Safety
    /// An external value must have been made with this very `T`.
    pub(crate) unsafe fn content<T: Clone>(self, value: Value) -> Option<T> {
        let content = call!(napi_get_value_external(self.0, value) -> *mut c_void)?;
        // SAFETY: the caller's promise; the box lives as long as the value.
        Some(unsafe { (*content.cast::<T>()).clone() })
    }

    /// Adds a function to the object that `require` gives.
    pub(crate) fn export(self, exports: Value, name: &str, function: sys::napi_callback) -> Option<()> {
        let length = isize::try_from(name.len()).ok()?;
        let name_at = name.as_ptr().cast::<c_char>();
        let made = call!(napi_create_function(self.0, name_at, length, function, null_mut()) -> Value)?;
        self.set(exports, name, made)
    }

    pub(crate) fn set(self, object: Value, name: &str, value: Value) -> Option<()> {
        let key = self.string(name.as_bytes())?;
        // SAFETY: live values.
        let status = unsafe { sys::napi_set_property(self.0, object, key, value) };
        (status == Status::napi_ok).then_some(())
    }

    /// An `Int32Array` that both sides use.
    pub(crate) fn shared_ints(self, count: usize) -> Option<(Value, SharedArray<i32>)> {
        self.shared(sys::TypedarrayType::int32_array, count)
    }

    /// A `Float64Array` that both sides use.
    pub(crate) fn shared_doubles(self, count: usize) -> Option<(Value, SharedArray<f64>)> {
        self.shared(sys::TypedarrayType::float64_array, count)
    }

    /// `T` must be what arrays of this kind consist of.
    fn shared<T>(self, kind: i32, count: usize) -> Option<(Value, SharedArray<T>)> {
        let mut memory = null_mut();
        // SAFETY: out-parameters of the right types; the array lies within its buffer.
        unsafe {
            let (mut buffer, mut array) = (null_mut(), null_mut());
            let bytes = count * size_of::<T>();
            if sys::napi_create_arraybuffer(self.0, bytes, &mut memory, &mut buffer) != Status::napi_ok {
                return None;
            }
            if sys::napi_create_typedarray(self.0, kind, count, buffer, 0, &mut array) != Status::napi_ok {
                return None;
            }
            let reference = Reference::new(self, array, true)?;
            Some((array, SharedArray { memory: memory.cast(), count, _reference: reference }))
        }
    }
}

/// The memory of a typed array that both sides use. It stays where it is as long as this holds the array.
pub(crate) struct SharedArray<T> {
    memory: *mut T,
    count: usize,
    _reference: Reference,
}

impl<T: Copy> SharedArray<T> {
    /// Copies to the beginning; what has no room must not be given.
    pub(crate) fn fill(&self, elements: &[T]) {
        assert!(elements.len() <= self.count, "what is shared fits the array");
        // SAFETY: there is room, the reference keeps the memory, and no JavaScript runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(elements.as_ptr(), self.memory, elements.len()) };
    }
}

/// Keeps a value beyond the present callback: strongly, or weakly as long as others keep it.
pub(crate) struct Reference {
    env: Env,
    raw: sys::napi_ref,
}

impl Reference {
    pub(crate) fn new(env: Env, value: Value, strong: bool) -> Option<Reference> {
        let raw = call!(napi_create_reference(env.0, value, u32::from(strong)) -> sys::napi_ref)?;
        Some(Reference { env, raw })
    }

    pub(crate) fn value(&self) -> Option<Value> {
        call!(napi_get_reference_value(self.env.0, self.raw) -> Value).filter(|value| !value.is_null())
    }

    /// Weak references become strong and the other way round; to be called on changes only.
    pub(crate) fn set_strong(&self, strong: bool) {
        let mut count = 0;
        // SAFETY: a live reference, whose count is 0 or 1.
        unsafe {
            if strong {
                sys::napi_reference_ref(self.env.0, self.raw, &mut count);
            } else {
                sys::napi_reference_unref(self.env.0, self.raw, &mut count);
            }
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted only here, on the thread of its environment.
        unsafe { sys::napi_delete_reference(self.env.0, self.raw) };
    }
}

unsafe extern "C" fn finalize<T>(_env: napi_env, content: *mut c_void, _hint: *mut c_void) {
    // SAFETY: called once, with what `external` boxed.
    let content = unsafe { Box::from_raw(content.cast::<T>()) };
    guarded((), || drop(content));
}

/// The arguments of a function that JavaScript called; missing ones are `undefined`.
pub(crate) fn arguments<const COUNT: usize>(env: Env, info: napi_callback_info) -> [Value; COUNT] {
    let mut values = [null_mut(); COUNT];
    let mut count = COUNT;
    // SAFETY: `values` has room for `count`; the other out-parameters are not wanted.
    unsafe { sys::napi_get_cb_info(env.0, info, &mut count, values.as_mut_ptr(), null_mut(), null_mut()) };
    values
}

/// Runs a callback of C code. A panic must not leave it: it becomes a line on standard error, and `otherwise`.
pub(crate) fn guarded<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}
