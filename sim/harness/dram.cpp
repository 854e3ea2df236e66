#include "dram.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace moesaic {

namespace {
constexpr uint64_t kNever = ~0ull;
constexpr uint64_t kOne = 65536;  // one beat of credit
constexpr uint8_t kOkay = 0, kSlaveError = 2, kDecodeError = 3;
constexpr uint8_t kIncrementing = 1;
constexpr uint8_t kPoison = 0xEE;  // what a failed read returns: visible when used

uint64_t load_bits(const uint8_t* bytes, size_t bits) {
    uint64_t value = 0;
    std::memcpy(&value, bytes, (bits + 7) / 8);
    return value;
}
}  // namespace

Dram::Dram(uint64_t base_, uint64_t size_, const DramConfig& config_) : base(base_), size(size_) {
    void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) throw std::runtime_error("cannot map the simulated DRAM");
    memory = static_cast<uint8_t*>(pages);
    configure(config_);
}

Dram::~Dram() { munmap(memory, size); }

void Dram::add_port(const PortSignals& signals) { ports.emplace_back(*this, signals, ports.size()); }

void Dram::configure(const DramConfig& value) {
    config = value;
    if (config.max_outstanding > BurstQueue::kCapacity)
        config.max_outstanding = BurstQueue::kCapacity;
    reset();
}

void Dram::reset() {
    ddr.reset(config.ddr, cycle, config.latency_cycles);
    admitted_write_bytes = 0;
    for (auto& port : ports) port.reset();
}

void Dram::violation(const DramPort& port, const char* format, ...) {
    if (violations.size() >= kMaxViolations) return;
    char text[256];
    int used = std::snprintf(text, sizeof text, "cycle %llu, port %s: ",
                             static_cast<unsigned long long>(cycle), port.signals().name);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text + used, sizeof text - used, format, arguments);
    va_end(arguments);
    violations.emplace_back(text);
}

DramPort::DramPort(Dram& dram, const PortSignals& signals, uint64_t stream)
    : dram_(dram), s_(signals), stream_(stream), held_wdata_(signals.data_bytes) {
    reset();
}

void DramPort::reset() {
    // Ports differ in their random sequence, or their gaps would coincide.
    random_state_ = (dram_.config.seed + 1) * 0x9E3779B97F4A7C15ull + stream_ * 0xD1B54A32D192ED03ull;
    credit_q16_ = kOne;
    gap_left_ = 0;
    reads_.clear();
    writes_.clear();
    responses_.clear();
    responses_scheduled_ = 0;
    held_ar_.active = held_aw_.active = held_w_ = false;
    r_valid_ = b_valid_ = w_ready_ = false;
    *s_.ar.ready = *s_.rvalid = *s_.rlast = *s_.rresp = 0;
    if (s_.writable) *s_.aw.ready = *s_.wready = *s_.bvalid = *s_.bresp = 0;
}

uint32_t DramPort::random() {  // 64-bit linear congruential generator, upper bits
    random_state_ = random_state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(random_state_ >> 40);
}

void DramPort::maybe_start_gap() {
    const DramConfig& c = dram_.config;
    if (c.gap_probability_q16 && (random() & 0xFFFF) < c.gap_probability_q16)
        gap_left_ = 1 + random() % c.max_gap_cycles;
}

bool DramPort::overlaps_reads(uint64_t begin, uint64_t end) const {
    for (size_t i = 0; i < reads_.size(); ++i)
        if (reads_.at(i).begin < end && begin < reads_.at(i).end) return true;
    return false;
}

bool DramPort::overlaps_writes(uint64_t begin, uint64_t end) const {
    for (size_t i = 0; i < writes_.size(); ++i)
        if (writes_.at(i).begin < end && begin < writes_.at(i).end) return true;
    for (size_t i = 0; i < responses_.size(); ++i)
        if (responses_.at(i).begin < end && begin < responses_.at(i).end) return true;
    return false;
}

Burst DramPort::accept(const AddressChannel& channel, bool is_write) {
    const uint64_t address = channel.address.get();
    const uint32_t beats = *channel.len + 1u;
    const char* what = is_write ? "write" : "read";
    const unsigned long long shown = address;
    if (*channel.burst != kIncrementing)
        dram_.violation(*this, "%s burst type must be 1 (INCR), not %u", what, *channel.burst);
    if ((1ull << *channel.size) != s_.data_bytes)
        dram_.violation(*this, "%s size must be the bus width of %zu bytes, not %llu", what,
                        s_.data_bytes, 1ull << *channel.size);
    if (address % s_.data_bytes)
        dram_.violation(*this, "%s address 0x%llx is not aligned to %zu bytes", what, shown,
                        s_.data_bytes);
    const uint64_t begin = address - address % s_.data_bytes;
    const uint64_t end = begin + beats * s_.data_bytes;
    if (begin / 4096 != (end - 1) / 4096)
        dram_.violation(*this, "%s of %u beats at 0x%llx crosses a 4 KiB boundary", what, beats,
                        shown);
    Burst burst{};
    burst.address = burst.begin = begin;
    burst.end = end;
    burst.ready_cycle = dram_.cycle + dram_.config.latency_cycles;
    burst.beats_left = beats;
    burst.response = kOkay;
    burst.request_ps = burst.ready_cycle * dram_.config.ddr.period_ps;
    burst.data_ps = burst.done_ps = Burst::kUnknown;
    if (burst.ready_cycle <= dram_.cycle) burst.ready_cycle = dram_.cycle + 1;
    if (!dram_.contains(begin, end)) burst.response = kDecodeError;
    for (const Fault& fault : dram_.faults) {
        if (begin >= fault.end || fault.begin >= end) continue;
        if (fault.kind == FaultKind::kHang) burst.ready_cycle = kNever, burst.hangs = true;
        else burst.response = kSlaveError;
    }
    if (dram_.config.check_hazards) {
        for (const DramPort& other : dram_.ports) {
            if (other.overlaps_writes(begin, end))
                dram_.violation(*this, "%s of %u beats at 0x%llx overlaps a write on port %s that has no response yet",
                                what, beats, shown, other.s_.name);
            if (is_write && other.overlaps_reads(begin, end))
                dram_.violation(*this, "write of %u beats at 0x%llx overlaps a read on port %s that is not finished",
                                beats, shown, other.s_.name);
        }
    }
    return burst;
}

void DramPort::sample_address(const AddressChannel& channel, Held& held, bool is_write) {
    if (held.active) {
        const char* name = is_write ? "aw" : "ar";
        if (!*channel.valid)
            dram_.violation(*this, "%svalid fell before %sready", name, name);
        else if (held.address != channel.address.get() || held.len != *channel.len ||
                 held.size != *channel.size || held.burst != *channel.burst)
            dram_.violation(*this, "%s payload changed while waiting for %sready", name, name);
        held.active = false;
    }
    if (!*channel.valid) return;
    if (*channel.ready) {
        const Burst burst = accept(channel, is_write);
        (is_write ? writes_ : reads_).push(burst);
        ++(is_write ? statistics.write_bursts : statistics.read_bursts);
        if (!is_write && !statistics.first_read_cycle) statistics.first_read_cycle = dram_.cycle;
    } else {
        held = {true, channel.address.get(), *channel.len, *channel.size, *channel.burst};
    }
}

void DramPort::store_beat(const Burst& burst) {
    if (burst.response != kOkay) return;
    uint8_t* target = dram_.memory + (burst.address - dram_.base);
    const uint64_t strobes = load_bits(s_.wstrb, s_.data_bytes);
    const uint64_t all = s_.data_bytes == 64 ? ~0ull : (1ull << s_.data_bytes) - 1;
    if (strobes == all) {
        std::memcpy(target, s_.wdata, s_.data_bytes);
        return;
    }
    for (size_t i = 0; i < s_.data_bytes; ++i)
        if (strobes >> i & 1) target[i] = s_.wdata[i];
}

bool DramPort::sample_write_data() {  // returns whether a beat moved
    if (held_w_) {
        if (!*s_.wvalid)
            dram_.violation(*this, "wvalid fell before wready");
        else if (held_wlast_ != *s_.wlast || held_wstrb_ != load_bits(s_.wstrb, s_.data_bytes) ||
                 std::memcmp(held_wdata_.data(), s_.wdata, s_.data_bytes) != 0)
            dram_.violation(*this, "w payload changed while waiting for wready");
        held_w_ = false;
    }
    if (!*s_.wvalid) return false;
    if (!w_ready_) {
        held_w_ = true;
        held_wlast_ = *s_.wlast;
        held_wstrb_ = load_bits(s_.wstrb, s_.data_bytes);
        std::memcpy(held_wdata_.data(), s_.wdata, s_.data_bytes);
        return false;
    }
    Burst& burst = writes_.front();
    store_beat(burst);
    statistics.write_bytes += s_.data_bytes;
    credit_q16_ -= kOne;
    maybe_start_gap();
    burst.address += s_.data_bytes;
    --burst.beats_left;
    if (*s_.wlast != (burst.beats_left == 0))
        dram_.violation(*this, "wlast is %u with %u beats left in the burst", *s_.wlast,
                        burst.beats_left);
    if (burst.beats_left == 0) {
        if (!burst.hangs) {
            burst.ready_cycle = dram_.cycle + dram_.config.latency_cycles;
            if (burst.ready_cycle <= dram_.cycle) burst.ready_cycle = dram_.cycle + 1;
        }
        burst.request_ps = dram_.cycle * dram_.config.ddr.period_ps;
        responses_.push(burst);
        writes_.pop();
    }
    return true;
}

void DramPort::sample() {
    bool moved = false, master_stalls = false;
    if (r_valid_) {
        if (*s_.rready) {
            moved = true;
            statistics.read_bytes += s_.data_bytes;
            r_valid_ = false;
            Burst& burst = reads_.front();
            burst.address += s_.data_bytes;
            if (--burst.beats_left == 0) reads_.pop();
        } else {
            master_stalls = true;
        }
    }
    if (s_.writable) {
        const bool expects_data = w_ready_;
        if (b_valid_ && *s_.bready) {
            b_valid_ = false;
            responses_.pop();
            if (responses_scheduled_) --responses_scheduled_;
        }
        const bool wrote = sample_write_data();
        moved |= wrote;
        master_stalls |= (expects_data && !wrote) || b_valid_;
        sample_address(s_.aw, held_aw_, true);
    }
    sample_address(s_.ar, held_ar_, false);
    if (moved) ++statistics.busy_cycles;
    else if (master_stalls) ++statistics.stall_cycles;
    else if (!reads_.empty() || !writes_.empty() || !responses_.empty()) ++statistics.wait_cycles;
    else ++statistics.idle_cycles;
}

void DramPort::present_read_beat() {
    const Burst& burst = reads_.front();
    if (burst.response == kOkay)
        std::memcpy(s_.rdata, dram_.memory + (burst.address - dram_.base), s_.data_bytes);
    else
        std::memset(s_.rdata, kPoison, s_.data_bytes);
    *s_.rresp = burst.response;
    *s_.rlast = burst.beats_left == 1;
    r_valid_ = true;
    credit_q16_ -= kOne;
    maybe_start_gap();
}

// The first read that has not been scheduled, if its data find room beside those not taken yet.
Burst* DramPort::next_read(uint64_t buffer_bytes) {
    uint64_t held = 0;
    for (size_t i = 0; i < reads_.size(); ++i) {
        Burst& burst = reads_.at(i);
        if (burst.hangs) return nullptr;
        if (burst.data_ps == Burst::kUnknown)
            return !held || held + (burst.end - burst.begin) <= buffer_bytes ? &burst : nullptr;
        held += burst.end - burst.address;
    }
    return nullptr;
}

// The first write whose data are complete and that has not been scheduled.
Burst* DramPort::next_write() {
    if (responses_scheduled_ == responses_.size()) return nullptr;
    Burst& burst = responses_.at(responses_scheduled_);
    return burst.hangs ? nullptr : &burst;
}

void DramPort::write_scheduled() { ++responses_scheduled_; }

uint64_t DramPort::waiting_write_bytes() const {
    uint64_t bytes = 0;
    for (size_t i = responses_scheduled_; i < responses_.size(); ++i)
        bytes += responses_.at(i).end - responses_.at(i).begin;
    return bytes;
}

bool DramPort::read_is_there() const {
    if (reads_.empty() || reads_.front().hangs) return false;
    if (dram_.ddr.on()) return dram_.ddr.arrived(reads_.front(), s_.data_bytes, dram_.cycle);
    return dram_.cycle >= reads_.front().ready_cycle && credit_q16_ >= kOne;
}

// A controller takes bursts whole: one that began without room for its end could block others.
bool DramPort::takes_write_data() {
    if (writes_.empty()) return false;
    if (!dram_.ddr.on()) return credit_q16_ >= kOne;
    Burst& burst = writes_.front();
    const uint64_t bytes = burst.end - burst.begin, held = dram_.admitted_write_bytes;
    if (!burst.admitted && (!held || held + bytes <= dram_.config.ddr.write_buffer_bytes)) {
        burst.admitted = true;
        dram_.admitted_write_bytes += bytes;
    }
    return burst.admitted;
}

void DramPort::drive() {
    const DramConfig& c = dram_.config;
    const uint64_t limit = c.burst_credit_beats * kOne + kOne;
    credit_q16_ += c.bandwidth_q16;
    if (credit_q16_ > limit) credit_q16_ = limit;
    const bool open = gap_left_ == 0;  // in a gap the port neither takes nor gives anything new
    if (!open) --gap_left_;

    if (!r_valid_ && open && read_is_there()) present_read_beat();
    *s_.rvalid = r_valid_;
    *s_.ar.ready = open && reads_.size() < c.max_outstanding;
    if (!s_.writable) return;

    w_ready_ = open && takes_write_data();
    *s_.wready = w_ready_;
    const bool stored = !dram_.ddr.on() || responses_scheduled_;
    if (!b_valid_ && stored && !responses_.empty() &&
        dram_.cycle >= responses_.front().ready_cycle) {
        b_valid_ = true;
        *s_.bresp = responses_.front().response;
    }
    *s_.bvalid = b_valid_;
    *s_.aw.ready = open && writes_.size() + responses_.size() < c.max_outstanding;
}

}  // namespace moesaic
