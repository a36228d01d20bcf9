//! The few functions of libuv that the addon needs, and handles that are closed and freed as libuv wants it.
//!
//! They are part of the `node` program and found when the addon is loaded. Layouts are not mirrored: the memory of a handle
//! is as large as libuv says, and its fields are reached by functions only.

use crate::environment::{Environment, OpenHandle};
use napi_sys::uv_loop_s;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::rc::Rc;

/// An opaque `uv_handle_t` of any kind.
#[repr(C)]
pub(crate) struct RawHandle {
    _opaque: [u8; 0],
}

pub(crate) type HandleCallback = unsafe extern "C" fn(*mut RawHandle);
pub(crate) type PollCallback = unsafe extern "C" fn(*mut RawHandle, status: c_int, events: c_int);

/// The socket can be read.
pub(crate) const READABLE: c_int = 1;
/// The socket takes bytes.
pub(crate) const WRITABLE: c_int = 2;
/// The other end of the socket has hung up.
pub(crate) const DISCONNECT: c_int = 4;

unsafe extern "C" {
    fn uv_handle_size(kind: c_int) -> usize;
    fn uv_handle_set_data(handle: *mut RawHandle, attached: *mut c_void);
    fn uv_handle_get_data(handle: *const RawHandle) -> *mut c_void;
    fn uv_close(handle: *mut RawHandle, callback: HandleCallback);
    fn uv_poll_init(uv_loop: *mut uv_loop_s, handle: *mut RawHandle, fd: c_int) -> c_int;
    fn uv_poll_start(handle: *mut RawHandle, events: c_int, callback: PollCallback) -> c_int;
    fn uv_idle_init(uv_loop: *mut uv_loop_s, handle: *mut RawHandle) -> c_int;
    fn uv_idle_start(handle: *mut RawHandle, callback: HandleCallback) -> c_int;
    fn uv_idle_stop(handle: *mut RawHandle) -> c_int;
    fn uv_ref(handle: *mut RawHandle);
    fn uv_unref(handle: *mut RawHandle);
    fn uv_backend_fd(uv_loop: *const uv_loop_s) -> c_int;
    fn uv_backend_timeout(uv_loop: *const uv_loop_s) -> c_int;
    fn uv_prepare_init(uv_loop: *mut uv_loop_s, handle: *mut RawHandle) -> c_int;
    fn uv_prepare_start(handle: *mut RawHandle, callback: HandleCallback) -> c_int;
    fn uv_prepare_stop(handle: *mut RawHandle) -> c_int;
    fn uv_timer_init(uv_loop: *mut uv_loop_s, handle: *mut RawHandle) -> c_int;
    fn uv_timer_start(handle: *mut RawHandle, callback: HandleCallback, timeout_ms: u64, repeat_ms: u64) -> c_int;
    fn uv_timer_stop(handle: *mut RawHandle) -> c_int;
    fn uv_update_time(uv_loop: *mut uv_loop_s);
    fn uv_async_init(uv_loop: *mut uv_loop_s, handle: *mut RawHandle, callback: HandleCallback) -> c_int;
    fn uv_async_send(handle: *mut RawHandle) -> c_int;
}

/// The kinds that are used, with their numbers in `uv_handle_type`.
#[derive(Clone, Copy)]
enum Kind {
    Async = 1,
    Idle = 6,
    Poll = 8,
    Prepare = 9,
    Timer = 13,
}

/// A handle that is initialised and not closed, and what its callbacks find. Dropping it closes it; the memory and the owner
/// live until libuv has said that it is closed.
pub(crate) struct Handle<T> {
    raw: NonNull<RawHandle>,
    owner: PhantomData<T>,
}

struct Attached<T> {
    owner: T,
    layout: Layout,
    _open: OpenHandle,
}

impl<T: Clone> Handle<T> {
    /// Watches a file descriptor.
    pub(crate) fn poll(environment: &Rc<Environment>, fd: c_int, owner: T) -> Option<Self> {
        // SAFETY: the memory is fresh and large enough, the loop is that of the running environment.
        Self::create(environment, Kind::Poll, owner, |raw| unsafe { uv_poll_init(environment.uv_loop(), raw, fd) })
    }

    /// Is called in every turn of the loop, which does not wait meanwhile. It may be started from anywhere: what starts when the loop is
    /// past it keeps the loop from waiting, too.
    pub(crate) fn idle(environment: &Rc<Environment>, owner: T) -> Option<Self> {
        // SAFETY: as in `poll`.
        Self::create(environment, Kind::Idle, owner, |raw| unsafe { uv_idle_init(environment.uv_loop(), raw) })
    }

    /// Is called before the loop waits, after everything that is idle.
    pub(crate) fn prepare(environment: &Rc<Environment>, owner: T) -> Option<Self> {
        // SAFETY: as in `poll`.
        Self::create(environment, Kind::Prepare, owner, |raw| unsafe { uv_prepare_init(environment.uv_loop(), raw) })
    }

    /// Is called when a time has passed.
    pub(crate) fn timer(environment: &Rc<Environment>, owner: T) -> Option<Self> {
        // SAFETY: as in `poll`.
        Self::create(environment, Kind::Timer, owner, |raw| unsafe { uv_timer_init(environment.uv_loop(), raw) })
    }

    /// Is called on the loop's thread after another thread woke it, see [`Handle::waker`].
    pub(crate) fn wakeup(environment: &Rc<Environment>, owner: T, callback: HandleCallback) -> Option<Self> {
        Self::create(environment, Kind::Async, owner, |raw| {
            // SAFETY: as in `poll`.
            unsafe { uv_async_init(environment.uv_loop(), raw, callback) }
        })
    }

    fn create(
        environment: &Rc<Environment>,
        kind: Kind,
        owner: T,
        init: impl FnOnce(*mut RawHandle) -> c_int,
    ) -> Option<Self> {
        // SAFETY: a pure function of its argument.
        let bytes = unsafe { uv_handle_size(kind as c_int) };
        let layout = Layout::from_size_align(bytes, 16).expect("a handle has an ordinary size");
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(raw) = NonNull::new(memory.cast::<RawHandle>()) else { handle_alloc_error(layout) };
        if init(raw.as_ptr()) != 0 {
            // SAFETY: allocated above with the same layout; libuv keeps nothing of a handle that it refused.
            unsafe { dealloc(memory, layout) };
            return None;
        }
        let attached = Box::new(Attached { owner, layout, _open: environment.open_handle() });
        // SAFETY: the handle is initialised; `Attached<T>` is what `owner_of::<T>` and `closed::<T>` take back.
        unsafe { uv_handle_set_data(raw.as_ptr(), Box::into_raw(attached).cast()) };
        Some(Handle { raw, owner: PhantomData })
    }

    /// For handles of [`Handle::poll`]: which events to watch. False when libuv refuses.
    pub(crate) fn watch(&self, events: c_int, callback: PollCallback) -> bool {
        // SAFETY: a live poll handle.
        unsafe { uv_poll_start(self.raw.as_ptr(), events, callback) == 0 }
    }

    /// The handle does not keep the process alive.
    pub(crate) fn unref(&self) {
        // SAFETY: a live handle.
        unsafe { uv_unref(self.raw.as_ptr()) };
    }

    /// The handle keeps the process alive, as all do at first.
    pub(crate) fn make_ref(&self) {
        // SAFETY: a live handle.
        unsafe { uv_ref(self.raw.as_ptr()) };
    }

    /// For handles of [`Handle::idle`].
    pub(crate) fn start_idle(&self, callback: HandleCallback) {
        // SAFETY: a live idle handle; it cannot fail with a callback.
        unsafe { uv_idle_start(self.raw.as_ptr(), callback) };
    }

    /// For handles of [`Handle::idle`].
    pub(crate) fn stop_idle(&self) {
        // SAFETY: a live idle handle.
        unsafe { uv_idle_stop(self.raw.as_ptr()) };
    }

    /// For handles of [`Handle::prepare`].
    pub(crate) fn start_prepare(&self, callback: HandleCallback) {
        // SAFETY: a live prepare handle; it cannot fail with a callback.
        unsafe { uv_prepare_start(self.raw.as_ptr(), callback) };
    }

    /// For handles of [`Handle::prepare`].
    pub(crate) fn stop_prepare(&self) {
        // SAFETY: a live prepare handle.
        unsafe { uv_prepare_stop(self.raw.as_ptr()) };
    }

    /// For handles of [`Handle::timer`]: fires once.
    pub(crate) fn start_timer(&self, environment: &Environment, after_ms: u64, callback: HandleCallback) {
        // SAFETY: a live timer handle on that loop. The loop's clock stands still while callbacks run, so it is moved on first.
        unsafe {
            uv_update_time(environment.uv_loop());
            uv_timer_start(self.raw.as_ptr(), callback, after_ms, 0);
        }
    }

    /// For handles of [`Handle::timer`].
    pub(crate) fn stop_timer(&self) {
        // SAFETY: a live timer handle.
        unsafe { uv_timer_stop(self.raw.as_ptr()) };
    }

    /// For handles of [`Handle::wakeup`].
    pub(crate) fn waker(&self) -> Waker {
        Waker(self.raw)
    }
}

/// Whether the loop is about to wait: no timer is due, nothing idle is to be called, and no descriptor that it watches is ready. One
/// system call.
pub(crate) fn would_wait(environment: &Environment) -> bool {
    // SAFETY: functions that only look at the loop of the running environment.
    let (timeout_ms, backend) =
        unsafe { (uv_backend_timeout(environment.uv_loop()), uv_backend_fd(environment.uv_loop())) };
    if timeout_ms == 0 || backend < 0 {
        return false;
    }
    // SAFETY: the loop keeps its descriptor open for as long as it lives.
    let backend = unsafe { BorrowedFd::borrow_raw(backend) };
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::from_borrowed_fd(backend, PollFlags::IN)], Some(&now)), Ok(0))
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: initialised, and closed only here. Closing stops it first.
        unsafe { uv_close(self.raw.as_ptr(), closed::<T>) };
    }
}

/// The owner of the handle that a callback was given.
///
/// # Safety
/// `raw` must be the argument of a callback of a `Handle<T>`, with this very `T`.
pub(crate) unsafe fn owner_of<T: Clone>(raw: *mut RawHandle) -> T {
    // SAFETY: the caller's promise; the box lives until `closed`.
    unsafe { (*uv_handle_get_data(raw).cast::<Attached<T>>()).owner.clone() }
}

unsafe extern "C" fn closed<T>(raw: *mut RawHandle) {
    // SAFETY: called once for each handle, by libuv, after it has let go of the memory.
    let attached = unsafe { Box::from_raw(uv_handle_get_data(raw).cast::<Attached<T>>()) };
    let layout = attached.layout;
    // SAFETY: allocated in `create` with this layout.
    unsafe { dealloc(raw.cast(), layout) };
    drop(attached);
}

/// Wakes the loop from another thread. Must not be used any more once the handle is dropped.
pub(crate) struct Waker(NonNull<RawHandle>);

// SAFETY: uv_async_send is the one function of libuv that may be called from any thread.
unsafe impl Send for Waker {}

impl Waker {
    pub(crate) fn wake(&self) {
        // SAFETY: whoever holds a waker ends before its handle is dropped.
        unsafe { uv_async_send(self.0.as_ptr()) };
    }
}
