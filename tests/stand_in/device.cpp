// A device for tests: its memory is the host's, its operators are the CPU's, and its copies are late.
//
// Operators run at once. A copy to or from pinned memory is only queued on the current stream of the calling
// thread, and one worker completes it later. Memory is filled with NaN before it is written, so a copy that is read
// before its event says so has wrong values. Whatever makes a thread wait for the device is noted with the thread.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr int kDevices = 2;

struct Position {  // on a stream
  int64_t device = 0, stream = 0, count = 0;
};

struct Job {
  Clock::time_point due;
  std::function<void()> run;
  Position after;  // what has to be complete on another stream
};

struct Queue {
  std::deque<Job> jobs;
  int64_t queued = 0, done = 0;
};

struct Machine {
  std::mutex lock;
  std::condition_variable changed;
  std::map<std::pair<int64_t, int64_t>, Queue> queues;
  std::chrono::microseconds delay{2000};
  std::vector<Job> spent;  // freed by a thread of the program: freeing a tensor may need Python's lock
  bool held = false, narrow = false;
  pid_t never_waits = 0;           // the thread in which a wait is an error
  std::set<pid_t> operating;       // threads that have asked for an operator
  int64_t streams = 0, operators = 0, copies = 0, changed_early = 0;
  std::ostringstream waits;  // lines of thread id and name
  std::mutex pinned_lock;
  std::set<const void*> pinned;

  Machine() { std::thread([this] { work(); }).detach(); }

  bool is_done(const Position& at) { return queues[{at.device, at.stream}].done >= at.count; }

  void work() {
    std::unique_lock<std::mutex> guard(lock);
    while (true) {
      bool ran = false;
      for (auto& [_, queue] : queues) {
        while (!held && !queue.jobs.empty() && queue.jobs.front().due <= Clock::now() &&
               is_done(queue.jobs.front().after)) {
          queue.jobs.front().run();
          spent.push_back(std::move(queue.jobs.front()));
          queue.jobs.pop_front();
          queue.done++;
          ran = true;
        }
      }
      if (ran) changed.notify_all();
      else changed.wait_for(guard, std::chrono::microseconds(500));
    }
  }

  // Called with the lock.
  void note_wait(const std::string& name) {
    const pid_t thread = syscall(SYS_gettid);
    waits << thread << ' ' << name << '\n';
    TORCH_CHECK(thread != never_waits, "called a synchronizing operation: ", name);
  }

  Position now(const c10::Stream& stream) {
    return {stream.device_index(), stream.id(), queues[{stream.device_index(), stream.id()}].queued};
  }

  void add(const c10::Stream& stream, std::function<void()> run, Position after = {}) {
    auto& queue = queues[{stream.device_index(), stream.id()}];
    queue.jobs.push_back({Clock::now() + delay, std::move(run), after});
    queue.queued++;
  }

  void wait(const Position& at, const std::string& name) {
    std::unique_lock<std::mutex> guard(lock);
    note_wait(name);
    const bool in_time = changed.wait_for(guard, std::chrono::seconds(60), [&] { return is_done(at); });
    guard.unlock();
    TORCH_CHECK(in_time, name, " has waited for a minute");
  }
};

Machine& machine() {
  static auto* one = new Machine();  // the worker outlives everything
  return *one;
}

thread_local c10::DeviceIndex current_device = 0;
thread_local int64_t current_stream[kDevices] = {0, 0};
thread_local bool within = false;  // an operator: its own copies are no copies of the program

c10::Device device_of(c10::Device device) {
  return {kType, device.has_index() ? device.index() : current_device};
}

c10::Stream stream_of(c10::Device device) {
  device = device_of(device);
  return c10::Stream(c10::Stream::UNSAFE, device, current_stream[device.index()]);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device old = getDevice();
    uncheckedSetDevice(device);
    return old;
  }
  c10::Device getDevice() const override { return {kType, current_device}; }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current_device = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Stream getStream(c10::Device device) const override { return stream_of(device); }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::UNSAFE, device_of(device), 0);
  }
  c10::Stream getNewStream(c10::Device device, int = 0) const override {
    std::lock_guard<std::mutex> guard(machine().lock);
    return c10::Stream(c10::Stream::UNSAFE, device_of(device), ++machine().streams);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool = false) const override {
    return getNewStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto old = stream_of(stream.device());
    current_stream[stream.device_index()] = stream.id();
    return old;
  }
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex, c10::EventFlag) const override {
    if (*event == nullptr) *event = new Position();
    std::lock_guard<std::mutex> guard(machine().lock);
    *static_cast<Position*>(*event) = machine().now(stream);
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override { delete static_cast<Position*>(event); }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == nullptr) return;
    std::lock_guard<std::mutex> guard(machine().lock);
    machine().add(stream, [] {}, *static_cast<Position*>(event));
  }
  bool queryEvent(void* event) const override {
    std::lock_guard<std::mutex> guard(machine().lock);
    return event == nullptr || machine().is_done(*static_cast<Position*>(event));
  }
  void synchronizeEvent(void* event) const override {
    if (!queryEvent(event)) machine().wait(*static_cast<Position*>(event), "event");
  }
  bool queryStream(const c10::Stream& stream) const override {
    std::lock_guard<std::mutex> guard(machine().lock);
    return machine().is_done(machine().now(stream));
  }
  void synchronizeStream(const c10::Stream& stream) const override { wait_for(stream, "stream"); }
  void synchronizeDevice(c10::DeviceIndex device) const override {
    std::vector<Position> all;
    {
      std::lock_guard<std::mutex> guard(machine().lock);
      for (auto& [at, queue] : machine().queues)
        if (at.first == device) all.push_back({at.first, at.second, queue.queued});
    }
    for (const auto& at : all) machine().wait(at, "device");
  }
  static void wait_for(const c10::Stream& stream, const std::string& name) {
    Position at;
    {
      std::lock_guard<std::mutex> guard(machine().lock);
      at = machine().now(stream);
    }
    machine().wait(at, name);
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Memory final : c10::Allocator {
  explicit Memory(bool pinned) : pinned_(pinned) {}
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::malloc(bytes + 1);
    std::memset(data, 0xFF, bytes);  // NaN in every floating dtype
    if (pinned_) {
      std::lock_guard<std::mutex> guard(machine().pinned_lock);
      machine().pinned.insert(data);
    }
    const c10::Device device = pinned_ ? c10::Device(c10::kCPU) : c10::Device(kType, current_device);
    return {data, data, raw_deleter(), device};
  }
  static void unpin(void* data) {
    std::lock_guard<std::mutex> guard(machine().pinned_lock);
    machine().pinned.erase(data);
    std::free(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return pinned_ ? &unpin : &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool pinned_;
};

Memory& memory() {
  static auto* one = new Memory(false);
  return *one;
}

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> guard(machine().pinned_lock);
  return machine().pinned.count(data) > 0;
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  void setCurrentDevice(c10::DeviceIndex device) const override { current_device = device; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    return std::exchange(current_device, device);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override { return exchangeDevice(device); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    static auto* one = new Memory(true);
    return one;
  }
};

// The same memory as a tensor on the host.
at::Tensor on_host(const at::Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

// Apple's GPUs have no float64, nor have some of Intel's.
void check_width(std::optional<at::ScalarType> dtype) {
  const bool is_wide = c10::dtype_or_default(dtype) == at::kDouble;
  TORCH_CHECK_TYPE(!is_wide || !machine().narrow, "this device has no float64");
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<c10::Layout>,
                 std::optional<c10::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  check_width(dtype);
  const c10::DeviceGuard guard(device_of(device.value_or(c10::Device(kType))));
  return at::detail::empty_generic(size, &memory(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>) {
  check_width(dtype);
  const c10::DeviceGuard guard(device_of(device.value_or(c10::Device(kType))));
  return at::detail::empty_strided_generic(size, stride, &memory(),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (from.numel() == 0) return to;
  const at::Tensor source = on_host(from), target = on_host(to);
  if (within || from.device().type() == to.device().type()) {
    target.copy_(source);
    return to;
  }
  const at::Tensor& host = from.is_cpu() ? from : to;
  const c10::Stream stream = stream_of((from.is_cpu() ? to : from).device());
  std::vector<Job> spent;
  std::unique_lock<std::mutex> guard(machine().lock);
  machine().copies++;
  spent.swap(machine().spent);
  guard.unlock();
  if (!non_blocking || !host.is_contiguous() || !is_pinned(host.storage().data())) {
    Guard::wait_for(stream, "copy");
    target.copy_(source);
    return to;
  }
  const at::Tensor values = source.clone();
  std::function<void()> run;
  if (from.is_cpu()) {  // operators run at once, so they need the values now; the source must not change until later
    target.copy_(values);
    run = [from, source, values] {
      machine().changed_early += std::memcmp(source.data_ptr(), values.data_ptr(), values.nbytes()) != 0;
    };
  } else {
    run = [to, target, values] { target.copy_(values); };
  }
  guard.lock();
  machine().add(stream, std::move(run));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

const std::set<std::string> kWaits = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero",
                                      "aten::masked_select", "aten::_unique2", "aten::unique_dim"};

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& name = op.schema().name();
  {
    std::lock_guard<std::mutex> guard(machine().lock);
    machine().operators++;
    machine().operating.insert(syscall(SYS_gettid));
  }
  if (kWaits.count(name) && !within) Guard::wait_for(stream_of(c10::Device(kType)), name);
  struct Within {
    bool before = std::exchange(within, true);
    ~Within() { within = before; }
  } inside;
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &at::native::resize_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_.source_Storage", &at::native::set_);
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
}

}  // namespace

extern "C" {
void stand_in_begin() {
  c10::SetAllocator(kType, &memory());
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  machine();
}
void stand_in_set(bool held, int64_t delay) {
  std::lock_guard<std::mutex> guard(machine().lock);
  machine().held = held;
  machine().delay = std::chrono::microseconds(delay);
  machine().changed.notify_all();
}
void stand_in_set_narrow(bool narrow) { machine().narrow = narrow; }
void stand_in_set_never_waits(int64_t thread) {
  std::lock_guard<std::mutex> guard(machine().lock);
  machine().never_waits = thread;
}
// Whether a thread has asked for an operator since this was asked last.
bool stand_in_operated(int64_t thread) {
  std::lock_guard<std::mutex> guard(machine().lock);
  return machine().operating.erase(thread) > 0;
}
// Which: 0 operators, 1 copies, 2 copies that are queued, 3 sources that changed before they were copied, since the
// last call, 4 buffers of pinned memory that are in use.
int64_t stand_in_count(int64_t which) {
  if (which == 4) {
    std::lock_guard<std::mutex> guard(machine().pinned_lock);
    return machine().pinned.size();
  }
  std::lock_guard<std::mutex> guard(machine().lock);
  int64_t queued = 0;
  for (auto& [_, queue] : machine().queues) queued += queue.jobs.size();
  if (which == 3) return std::exchange(machine().changed_early, 0);
  return which == 0 ? machine().operators : which == 1 ? machine().copies : queued;
}
// The waits since the last call, each a line of a thread's id and a name; returns the length that is needed.
int64_t stand_in_waits(char* text, int64_t length) {
  std::lock_guard<std::mutex> guard(machine().lock);
  const std::string all = machine().waits.str();
  if (static_cast<int64_t>(all.size()) < length) {
    std::memcpy(text, all.c_str(), all.size() + 1);
    machine().waits.str("");
  }
  return all.size() + 1;
}
}
