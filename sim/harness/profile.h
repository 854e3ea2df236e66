// What every unit of the accelerator did in every cycle of a frame, run-length encoded.
#pragma once
#include <cstdint>
#include <vector>

#include "dram.h"

namespace moesaic {

// Mirrored in sim/profile.py.
enum RecordKind : uint8_t { kState = 0, kTake = 1, kGive = 2, kCount = 3 };

struct ProfileRecord {
    uint32_t cycle;  // of the frame; 0 is the first one in which it runs
    uint8_t unit;    // kCount: number of the expert
    uint8_t kind;
    uint16_t value;  // kState: lowest bit that is set, plus one, or 0; kCount: tokens of the expert
};
static_assert(sizeof(ProfileRecord) == 8, "read as an array by Python");

class Profile {
  public:
    static constexpr int kUnits = 6;
    static constexpr int kRouter = 3;
    static constexpr uint32_t kBinCycles = 32;

    void start(size_t ports) {
        *this = Profile();
        on = true;
        bytes_before_.assign(2 * ports, 0);
    }

    // Looks at the cycle that ends. `counts` are the expert queues' lengths.
    void sample(const uint16_t* states, uint8_t take, uint8_t give, const uint16_t* counts,
                int experts, const Dram& dram) {
        if (cycle == 0) measure(dram, nullptr);
        for (int unit = 0; unit < kUnits; ++unit) {
            const uint16_t state = states[unit] ? __builtin_ctz(states[unit]) + 1 : 0;
            if (state != before_[unit]) put(unit, kState, before_[unit] = state);
            if (take >> unit & 1) put(unit, kTake, 0);
            if (give >> unit & 1) put(unit, kGive, 0);
        }
        if (give >> kRouter & 1) {
            for (int e = 0; e < experts; ++e) put(e, kCount, counts[e]);
        }
        if (++cycle % kBinCycles == 0) measure(dram, &bytes);
    }

    // The frame is over: close the last bin.
    void stop(const Dram& dram) {
        if (on && cycle % kBinCycles) measure(dram, &bytes);
        on = false;
    }

    bool on = false;
    uint32_t cycle = 0;
    std::vector<ProfileRecord> records;
    std::vector<uint32_t> bytes;  // per bin and port: bytes read, bytes written

  private:
    void put(int unit, RecordKind kind, uint16_t value) {
        records.push_back({cycle, static_cast<uint8_t>(unit), kind, value});
    }
    void measure(const Dram& dram, std::vector<uint32_t>* out) {
        size_t i = 0;
        for (const auto& port : dram.ports) {
            for (uint64_t now : {port.statistics.read_bytes, port.statistics.write_bytes}) {
                if (out) out->push_back(static_cast<uint32_t>(now - bytes_before_[i]));
                bytes_before_[i++] = now;
            }
        }
    }

    uint16_t before_[kUnits] = {};
    std::vector<uint64_t> bytes_before_;
};

}  // namespace moesaic
