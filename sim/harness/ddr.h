// One controller of a DDR memory behind all ports: refresh, turnarounds of the data bus, rows that
// are opened and closed. Times are in picoseconds from cycle 0, integers: same requests, same cycles.
//
// Bursts are served whole. A row is one of every bank group, whose accesses take turns, so that
// consecutive ones are a short CAS-to-CAS delay apart and a burst of AXI4 never leaves its row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dram_config.h"

namespace moesaic {

using DdrConfig = ::moesaic_ddr_config;

class Dram;
struct Burst;

class DdrController {
  public:
    void reset(const DdrConfig& config, uint64_t cycle, uint32_t latency_cycles);
    bool on() const { return config_.period_ps != 0; }

    // Give the data bus to what is requested, as far ahead as rows take to be opened.
    void schedule(Dram& dram);

    // Whether a beat of a read that has been scheduled is there in this cycle.
    bool arrived(const Burst& burst, size_t data_bytes, uint64_t cycle) const;

  private:
    struct Bank {
        uint64_t row;        // or none
        uint64_t cas_ps;     // first read or write command
        uint64_t close_ps;   // first precharge command; of a closed row, first activate command
    };
    struct Slot {  // what a burst would get
        uint64_t start, end, activated;
        bool opens;
    };
    static constexpr uint64_t kNone = ~0ull;

    uint64_t access_ps() const { return 4ull * config_.clock_ps; }  // eight transfers
    uint64_t access_bytes() const { return 8ull * config_.bus_bytes; }
    uint64_t span_bytes() const {
        return static_cast<uint64_t>(config_.groups) * config_.columns * config_.bus_bytes;
    }
    Bank& bank_of(uint64_t address) { return banks_[address / span_bytes() % config_.banks]; }
    uint64_t row_of(uint64_t address) const { return address / span_bytes() / config_.banks; }
    uint64_t bus_ps(bool write) const;
    Slot slot(const Burst& burst, bool write, uint64_t now);
    void refresh_before(uint64_t start);
    void take(Burst& burst, bool write, uint64_t now);
    bool choose(Dram& dram, uint64_t now);

    DdrConfig config_{};
    uint64_t latency_ps_ = 0;
    uint64_t bus_free_ = 0, next_refresh_ = 0;
    bool wrote_ = false;     // the last burst was a write
    bool draining_ = false;  // writes go first until there are none
    std::vector<Bank> banks_;
    std::vector<uint64_t> activations_;  // the last ones that count for the window of four
    size_t oldest_activation_ = 0;
};

}  // namespace moesaic
