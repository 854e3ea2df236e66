#include "ddr.h"

#include <algorithm>

#include "dram.h"

namespace moesaic {

void DdrController::reset(const DdrConfig& config, uint64_t cycle, uint32_t latency_cycles) {
    config_ = config;
    if (!on()) return;
    const uint64_t now = cycle * config_.period_ps;
    latency_ps_ = static_cast<uint64_t>(latency_cycles) * config_.period_ps;
    bus_free_ = now;
    next_refresh_ = now + config_.refresh_interval_ps;
    wrote_ = draining_ = false;
    banks_.assign(config_.banks, {kNone, now, now});
    // A row of every group is opened at once; four activations may fall into the window.
    activations_.assign(std::max(1u, 4 / config_.groups), 0);
    oldest_activation_ = 0;
}

// When the bus may carry data of that direction.
uint64_t DdrController::bus_ps(bool write) const {
    if (wrote_ && !write) return bus_free_ + config_.write_to_read_ps + config_.read_ps;
    if (!wrote_ && write) return bus_free_ + config_.read_to_write_ps;
    return bus_free_;
}

DdrController::Slot DdrController::slot(const Burst& burst, bool write, uint64_t now) {
    const Bank& bank = bank_of(burst.begin);
    Slot found{std::max(bus_ps(write), burst.request_ps), 0, 0, bank.row != row_of(burst.begin)};
    uint64_t command = bank.cas_ps;
    if (found.opens) {
        found.activated = std::max(now, bank.close_ps);
        if (bank.row != kNone) found.activated += config_.precharge_ps;
        const uint64_t window = activations_[oldest_activation_] + config_.activate_window_ps;
        found.activated = std::max(found.activated, window);
        command = found.activated + config_.activate_ps;
    }
    found.start = std::max(found.start, command + (write ? config_.write_ps : config_.read_ps));
    const uint64_t size = access_bytes();
    const uint64_t accesses = (burst.end + size - 1) / size - burst.begin / size;
    found.end = found.start + accesses * access_ps();
    return found;
}

// All rows are closed and all banks refreshed, as often as is due before data could begin.
void DdrController::refresh_before(uint64_t start) {
    while (std::max(start, bus_free_) >= next_refresh_) {
        uint64_t begin = std::max(next_refresh_, bus_free_);
        for (const Bank& bank : banks_)
            if (bank.row != kNone) begin = std::max(begin, bank.close_ps);
        const uint64_t end = begin + config_.precharge_ps + config_.refresh_ps;
        banks_.assign(banks_.size(), {kNone, end, end});
        bus_free_ = end;
        next_refresh_ += config_.refresh_interval_ps;
    }
}

void DdrController::take(Burst& burst, bool write, uint64_t now) {
    refresh_before(std::max(bus_ps(write), burst.request_ps));
    const Slot found = slot(burst, write, now);
    Bank& bank = bank_of(burst.begin);
    if (found.opens) {
        bank.row = row_of(burst.begin);
        bank.cas_ps = found.activated + config_.activate_ps;
        bank.close_ps = found.activated + config_.row_open_ps;
        activations_[oldest_activation_] = found.activated;
        oldest_activation_ = (oldest_activation_ + 1) % activations_.size();
    }
    // A read's last command is that long before the end of its data.
    const uint64_t last = found.end - access_ps() - config_.read_ps;
    const uint64_t close = write ? found.end + config_.write_recovery_ps
                                 : last + config_.read_to_close_ps;
    bank.close_ps = std::max(bank.close_ps, close);
    burst.data_ps = found.start;
    burst.done_ps = found.end;
    bus_free_ = found.end;
    wrote_ = write;
    if (write) {  // the response comes when the data are stored
        const uint64_t stored = (found.end + config_.period_ps - 1) / config_.period_ps;
        burst.ready_cycle = std::max(burst.ready_cycle, stored);
    }
}

bool DdrController::arrived(const Burst& burst, size_t data_bytes, uint64_t cycle) const {
    if (burst.data_ps == kNone) return false;
    const uint64_t first = burst.begin / access_bytes() * access_bytes();
    const uint64_t bytes = burst.address + data_bytes - first;
    const uint64_t there = burst.data_ps + bytes * access_ps() / access_bytes();
    return cycle * config_.period_ps >= there;
}

// Reads go first, writes in batches; of each direction what can have its data first, then what was
// requested first. A burst that others have passed so many times is next.
bool DdrController::choose(Dram& dram, uint64_t now) {
    const uint64_t ahead = now + config_.precharge_ps + config_.activate_ps + config_.read_ps;
    Burst* best[2] = {nullptr, nullptr};
    Slot slots[2]{};
    uint64_t waiting_bytes = 0;
    DramPort* writer = nullptr;
    std::vector<Burst*>& reads = dram.candidates;
    reads.clear();
    for (auto& port : dram.ports) {
        Burst* const heads[2] = {port.next_read(config_.read_buffer_bytes), port.next_write()};
        waiting_bytes += port.waiting_write_bytes();
        for (int write = 0; write < 2; ++write) {
            Burst* const burst = heads[write];
            if (!burst || burst->request_ps > ahead) continue;
            if (!write) reads.push_back(burst);
            const Slot found = slot(*burst, write, now);
            Burst*& chosen = best[write];
            const bool late = burst->passed >= config_.most_passes;
            const bool other_late = chosen && chosen->passed >= config_.most_passes;
            const bool first = found.start < slots[write].start ||
                               (found.start == slots[write].start &&
                                burst->request_ps < chosen->request_ps);
            if (!chosen || (late && !other_late) ||
                (late && other_late && burst->request_ps < chosen->request_ps) ||
                (!late && !other_late && first)) {
                chosen = burst;
                slots[write] = found;
                if (write) writer = &port;
            }
        }
    }
    if (!best[1]) draining_ = false;
    else if (!best[0] || 2 * waiting_bytes >= config_.write_buffer_bytes) draining_ = true;
    Burst* const burst = draining_ ? best[1] : best[0];
    if (!burst) return false;
    if (!draining_)
        for (Burst* other : reads) other->passed += other != burst;
    take(*burst, draining_, now);
    if (draining_) {
        dram.admitted_write_bytes -= burst->end - burst->begin;
        writer->write_scheduled();
    }
    return true;
}

void DdrController::schedule(Dram& dram) {
    const uint64_t now = dram.cycle * config_.period_ps;
    const uint64_t ahead = now + config_.precharge_ps + config_.activate_ps + config_.read_ps;
    while (bus_free_ <= ahead && choose(dram, now)) {
    }
}

}  // namespace moesaic
