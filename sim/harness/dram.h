// A DRAM behind several AXI4 ports: first-word latency, and a bandwidth limit and random gaps per
// port or one DDR controller for all of them (ddr.h), protocol and hazard checks, and faults on request. Deterministic: same seed, same cycles.
//
// Knows nothing of Verilator: a port is a set of pointers into the model's flat signals, which on
// a little-endian host hold any width (8 to 512 bits) as consecutive bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ddr.h"
#include "dram_config.h"

namespace moesaic {

using DramConfig = ::moesaic_dram_config;

// Mirrored in sim/device.py. The four cycle counts add up to the cycles simulated.
struct PortStatistics {
    uint64_t read_bytes;    // bus bytes delivered
    uint64_t write_bytes;   // bus bytes accepted, whatever the strobes
    uint64_t read_bursts;
    uint64_t write_bursts;
    uint64_t busy_cycles;   // a beat moved
    uint64_t stall_cycles;  // none moved because the master was not ready
    uint64_t wait_cycles;   // none moved because the memory was not ready
    uint64_t idle_cycles;   // nothing outstanding
    uint64_t first_read_cycle;  // in which the first read was accepted; 0: none was
};

enum class FaultKind : uint32_t { kError = 0, kHang = 1 };

struct Fault {
    FaultKind kind;
    uint64_t begin, end;  // any burst that touches [begin, end)
};

// A master's address, whose Verilator type depends on the address width.
struct AddressSignal {
    const void* pointer;
    size_t bytes;
    uint64_t get() const {
        return bytes == 8 ? *static_cast<const uint64_t*>(pointer)
                          : *static_cast<const uint32_t*>(pointer);
    }
};

struct AddressChannel {
    AddressSignal address;
    const uint8_t *len, *size, *burst, *valid;
    uint8_t* ready;
};

struct PortSignals {
    const char* name = "";
    size_t data_bytes = 0;
    AddressChannel ar{};
    uint8_t *rdata = nullptr, *rresp = nullptr, *rlast = nullptr, *rvalid = nullptr;
    const uint8_t* rready = nullptr;
    bool writable = false;  // the members below are set only then
    AddressChannel aw{};
    const uint8_t *wdata = nullptr, *wstrb = nullptr, *wlast = nullptr, *wvalid = nullptr;
    uint8_t* wready = nullptr;
    uint8_t *bresp = nullptr, *bvalid = nullptr;
    const uint8_t* bready = nullptr;
};

struct Burst {
    uint64_t address;      // of the next beat
    uint64_t begin, end;   // bytes of the whole burst
    uint64_t ready_cycle;  // first data (reads) or response (writes); never, if it hangs
    uint32_t beats_left;
    uint8_t response;
    bool hangs;
    // Behind a DDR controller, all but the last: kUnknown until it has been scheduled.
    uint64_t request_ps;        // when its data may begin; of a write, when they are complete
    uint64_t data_ps, done_ps;  // when the bus begins and ends with it
    bool admitted;              // a write: the controller has room for it
    uint32_t passed;            // a read: how many requested later went first

    static constexpr uint64_t kUnknown = ~0ull;
};

// First in, first out, without allocation. Counts never wrap in practice (64 bits).
class BurstQueue {
  public:
    static constexpr size_t kCapacity = 64;
    bool empty() const { return head_ == tail_; }
    size_t size() const { return tail_ - head_; }
    Burst& front() { return slots_[head_ % kCapacity]; }
    const Burst& front() const { return slots_[head_ % kCapacity]; }
    const Burst& at(size_t i) const { return slots_[(head_ + i) % kCapacity]; }
    Burst& at(size_t i) { return slots_[(head_ + i) % kCapacity]; }
    void push(const Burst& burst) { slots_[tail_++ % kCapacity] = burst; }
    void pop() { ++head_; }
    void clear() { head_ = tail_ = 0; }

  private:
    Burst slots_[kCapacity];
    uint64_t head_ = 0, tail_ = 0;
};

class Dram;

class DramPort {
  public:
    DramPort(Dram& dram, const PortSignals& signals, uint64_t stream);

    void reset();
    void sample();  // take what the master presents in the cycle that ends
    void drive();   // decide what it is shown in the cycle that begins

    PortStatistics statistics{};
    const PortSignals& signals() const { return s_; }

    // For a DDR controller: what is to be scheduled next, or null.
    Burst* next_read(uint64_t buffer_bytes);
    Burst* next_write();
    void write_scheduled();
    uint64_t waiting_write_bytes() const;

  private:
    friend class Dram;

    // What a channel presented in the last cycle without being accepted: it must not change.
    struct Held {
        bool active = false;
        uint64_t address = 0;
        uint8_t len = 0, size = 0, burst = 0;
    };

    void sample_address(const AddressChannel& channel, Held& held, bool is_write);
    Burst accept(const AddressChannel& channel, bool is_write);
    bool sample_write_data();
    void store_beat(const Burst& burst);
    bool read_is_there() const;
    bool takes_write_data();
    void present_read_beat();
    void maybe_start_gap();
    uint32_t random();
    bool overlaps_reads(uint64_t begin, uint64_t end) const;
    bool overlaps_writes(uint64_t begin, uint64_t end) const;

    Dram& dram_;
    PortSignals s_;
    uint64_t stream_;
    uint64_t random_state_ = 0;
    uint64_t credit_q16_ = 0;
    uint32_t gap_left_ = 0;
    BurstQueue reads_, writes_, responses_;
    size_t responses_scheduled_ = 0;  // of a DDR controller, from the first on
    bool r_valid_ = false, b_valid_ = false, w_ready_ = false;
    Held held_ar_, held_aw_;
    bool held_w_ = false;
    std::vector<uint8_t> held_wdata_;
    uint64_t held_wstrb_ = 0;
    uint8_t held_wlast_ = 0;
};

class Dram {
  public:
    Dram(uint64_t base, uint64_t size_bytes, const DramConfig& config);
    ~Dram();
    Dram(const Dram&) = delete;
    Dram& operator=(const Dram&) = delete;

    void add_port(const PortSignals& signals);
    void configure(const DramConfig& config);
    void reset();
    void sample() {
        for (auto& port : ports) port.sample();
    }
    void drive() {
        ++cycle;
        if (ddr.on()) ddr.schedule(*this);
        for (auto& port : ports) port.drive();
    }
    void violation(const DramPort& port, const char* format, ...)
        __attribute__((format(printf, 3, 4)));

    bool contains(uint64_t begin, uint64_t end) const {
        return begin >= base && end <= base + size && begin <= end;
    }

    const uint64_t base, size;
    uint8_t* memory;  // zero until written; pages appear when touched
    DramConfig config;
    uint64_t cycle = 0;
    std::vector<DramPort> ports;
    DdrController ddr;
    uint64_t admitted_write_bytes = 0;  // to the controller and not scheduled yet
    std::vector<Burst*> candidates;     // the controller's, kept for their memory
    std::vector<Fault> faults;
    std::vector<std::string> violations;  // the first kMaxViolations of them
    static constexpr size_t kMaxViolations = 32;
};

}  // namespace moesaic
