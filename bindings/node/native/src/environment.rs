//! What one JavaScript environment shares among its clients, and its end.
//!
//! Nothing here is global: a worker thread, and another version of this addon in the same process, have their own.

use crate::batch::{Batch, RECORD_INTS, RECORDS_ROOM};
use crate::commands::Commands;
use crate::node::{Env, SharedArray, Value, guarded};
use crate::shapes::Shapes;
use crate::tape::{TAPE_DOUBLES, TAPE_INTS};
use crate::waiting::Waiting;
use bro_proto::limits::CLIENT_READ_BYTES_MAX;
use bro_proto::time::Now;
use bytes::{Bytes, BytesMut};
use napi_sys::{self as sys, Status, uv_loop_s};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::rc::{Rc, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Something that must not outlive the environment.
pub(crate) trait Ends {
    /// Lets go of handles, references and threads. Called at most once by the environment, and never calls JavaScript.
    fn end(&self);
}

pub(crate) struct Environment {
    pub(crate) env: Env,
    uv_loop: *mut uv_loop_s,
    /// Handles that libuv has not given back.
    open_handles: Cell<usize>,
    /// Set once the environment is being torn down: to be told when all handles are closed.
    ending: Cell<Option<sys::napi_async_cleanup_hook_handle>>,
    tenants: RefCell<Vec<Weak<dyn Ends>>>,
    /// What JavaScript reads of the batch that is being delivered; see [`crate::batch`].
    shared: RefCell<Option<Shared>>,
    pub(crate) shapes: RefCell<Shapes>,
    batch: Cell<Option<Batch>>,
    /// Used again and again for what JavaScript hands over.
    pub(crate) commands: Cell<Option<Commands>>,
    /// Read into by one client at a time. Slices of it are usually gone before the next read: then it is used again.
    read_room: Cell<Bytes>,
    pub(crate) waiting: Waiting,
    started: Instant,
}

struct Shared {
    records: SharedArray<i32>,
    tape: SharedArray<i32>,
    doubles: SharedArray<f64>,
}

impl Environment {
    /// The state of the environment that loads the addon, and the arrays that its batches are announced in: records, tape, doubles.
    pub(crate) fn install(env: Env) -> Option<(Rc<Environment>, [Value; 3])> {
        let mut uv_loop = null_mut();
        // SAFETY: an out-parameter.
        if unsafe { sys::napi_get_uv_event_loop(env.0, &mut uv_loop) } != Status::napi_ok {
            return None;
        }
        let (records_value, records) = env.shared_ints(RECORDS_ROOM * RECORD_INTS)?;
        let (tape_value, tape) = env.shared_ints(TAPE_INTS)?;
        let (doubles_value, doubles) = env.shared_doubles(TAPE_DOUBLES)?;
        let environment = Rc::new(Environment {
            env,
            uv_loop,
            open_handles: Cell::new(0),
            ending: Cell::new(None),
            tenants: RefCell::new(Vec::new()),
            shared: RefCell::new(Some(Shared { records, tape, doubles })),
            shapes: RefCell::default(),
            batch: Cell::new(None),
            commands: Cell::new(None),
            read_room: Cell::default(),
            waiting: Waiting::default(),
            started: Instant::now(),
        });
        let kept = Rc::into_raw(environment.clone()).cast_mut().cast::<c_void>();
        let mut handle = null_mut();
        // SAFETY: `clean_up` takes back what `kept` holds; an out-parameter.
        let status = unsafe { sys::napi_add_async_cleanup_hook(env.0, Some(clean_up), kept, &mut handle) };
        let instance = Rc::into_raw(environment.clone()).cast_mut().cast::<c_void>();
        // SAFETY: `drop_instance` takes back what `instance` holds.
        let set = unsafe { sys::napi_set_instance_data(env.0, instance, Some(drop_instance), null_mut()) };
        (status == Status::napi_ok && set == Status::napi_ok)
            .then_some((environment, [records_value, tape_value, doubles_value]))
    }

    /// The state of the environment in which a function was called.
    pub(crate) fn of(env: Env) -> Option<Rc<Environment>> {
        let mut instance = null_mut();
        // SAFETY: an out-parameter.
        let status = unsafe { sys::napi_get_instance_data(env.0, &mut instance) };
        if status != Status::napi_ok || instance.is_null() {
            return None;
        }
        let instance = instance.cast::<Environment>().cast_const();
        // SAFETY: set by `install` and held until the environment ends; one more owner is counted for the copy.
        Some(unsafe {
            Rc::increment_strong_count(instance);
            Rc::from_raw(instance)
        })
    }

    pub(crate) fn uv_loop(&self) -> *mut uv_loop_s {
        self.uv_loop
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Has `tenant` ended together with the environment.
    pub(crate) fn admit(&self, tenant: Weak<dyn Ends>) {
        let mut tenants = self.tenants.borrow_mut();
        // Looked through when it would grow: the cost is shared by those who came since.
        if tenants.len() == tenants.capacity() {
            tenants.retain(|tenant| tenant.strong_count() > 0);
        }
        tenants.push(tenant);
    }

    /// Whether JavaScript cannot be called any more.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.get().is_some()
    }

    /// The batch to fill, with room for records in the shared array.
    pub(crate) fn take_batch(&self) -> Batch {
        self.batch.take().unwrap_or_default()
    }

    pub(crate) fn put_batch_back(&self, batch: Batch) {
        self.batch.set(Some(batch));
    }

    /// Has `read` fill the beginning of a buffer, and gives what it says it filled.
    pub(crate) fn read_into<T>(
        &self,
        read: impl FnOnce(&mut [u8]) -> T,
        filled: impl FnOnce(&T) -> usize,
    ) -> (Bytes, T) {
        let mut room = match self.read_room.take().try_into_mut() {
            Ok(room) if room.len() == CLIENT_READ_BYTES_MAX => room,
            Ok(_) | Err(_) => BytesMut::zeroed(CLIENT_READ_BYTES_MAX),
        };
        let done = read(&mut room);
        let room = room.freeze();
        let chunk = room.slice(..filled(&done));
        self.read_room.set(room);
        (chunk, done)
    }

    /// Makes records and tape visible to JavaScript.
    pub(crate) fn publish(&self, batch: &Batch) {
        let shared = self.shared.borrow();
        let Some(Shared { records, tape, doubles }) = &*shared else { return };
        records.fill(batch.records().as_flattened());
        tape.fill(&batch.tape.ints);
        doubles.fill(&batch.tape.doubles);
    }

    /// Counts a handle until the token is dropped.
    pub(crate) fn open_handle(self: &Rc<Self>) -> OpenHandle {
        self.open_handles.set(self.open_handles.get() + 1);
        OpenHandle(self.clone())
    }

    fn finish_if_ended(&self) {
        if self.open_handles.get() == 0
            && let Some(handle) = self.ending.take()
        {
            // SAFETY: the handle of our own hook, given back once.
            unsafe { sys::napi_remove_async_cleanup_hook(handle) };
        }
    }
}

/// Stands for one handle that libuv may still use.
pub(crate) struct OpenHandle(Rc<Environment>);

impl Drop for OpenHandle {
    fn drop(&mut self) {
        self.0.open_handles.set(self.0.open_handles.get() - 1);
        self.0.finish_if_ended();
    }
}

/// The environment ends: `worker.terminate()`, or the process exits. The loop runs on until `finish_if_ended` reports.
unsafe extern "C" fn clean_up(handle: sys::napi_async_cleanup_hook_handle, kept: *mut c_void) {
    guarded((), || {
        // SAFETY: what `install` gave away for this one call.
        let environment = unsafe { Rc::from_raw(kept.cast::<Environment>().cast_const()) };
        environment.ending.set(Some(handle));
        for tenant in environment.tenants.take() {
            if let Some(tenant) = tenant.upgrade() {
                guarded((), || tenant.end());
            }
        }
        drop(environment.shared.take());
        environment.waiting.end();
        environment.finish_if_ended();
    });
}

unsafe extern "C" fn drop_instance(_env: sys::napi_env, instance: *mut c_void, _hint: *mut c_void) {
    // SAFETY: what `install` gave away, given back once.
    guarded((), || drop(unsafe { Rc::from_raw(instance.cast::<Environment>().cast_const()) }));
}
