// One DRAM with read-write ports whose signals are plain variables, for tests/sim/dram_bench.py.
#include "dram.h"

struct Signals {
    uint64_t araddr, awaddr, wstrb;
    uint8_t arlen, arsize, arburst, arvalid, arready;
    uint8_t rresp, rlast, rvalid, rready;
    uint8_t awlen, awsize, awburst, awvalid, awready;
    uint8_t wlast, wvalid, wready;
    uint8_t bresp, bvalid, bready;
    uint8_t rdata[64], wdata[64];
};

struct Bench {
    static constexpr uint32_t kMostPorts = 8;
    Signals signals[kMostPorts]{};
    moesaic::Dram dram;
    Bench(uint64_t base, uint64_t size, const moesaic::DramConfig& config, uint32_t data_bytes,
          uint32_t ports)
        : dram(base, size, config) {
        for (uint32_t i = 0; i < ports && i < kMostPorts; ++i) {
            Signals& s = signals[i];
            moesaic::PortSignals p;
            p.name = "d";
            p.data_bytes = data_bytes;
            p.ar = {{&s.araddr, 8}, &s.arlen, &s.arsize, &s.arburst, &s.arvalid, &s.arready};
            p.rdata = s.rdata;
            p.rresp = &s.rresp;
            p.rlast = &s.rlast;
            p.rvalid = &s.rvalid;
            p.rready = &s.rready;
            p.writable = true;
            p.aw = {{&s.awaddr, 8}, &s.awlen, &s.awsize, &s.awburst, &s.awvalid, &s.awready};
            p.wdata = s.wdata;
            p.wstrb = reinterpret_cast<uint8_t*>(&s.wstrb);
            p.wlast = &s.wlast;
            p.wvalid = &s.wvalid;
            p.wready = &s.wready;
            p.bresp = &s.bresp;
            p.bvalid = &s.bvalid;
            p.bready = &s.bready;
            dram.add_port(p);
        }
    }
};

extern "C" {
Bench* bench_new(uint64_t base, uint64_t size, const moesaic::DramConfig* c, uint32_t data_bytes,
                 uint32_t ports) {
    return new Bench(base, size, *c, data_bytes, ports);
}
void bench_delete(Bench* b) { delete b; }
Signals* bench_signals(Bench* b, uint32_t port) { return &b->signals[port]; }
uint8_t* bench_memory(Bench* b) { return b->dram.memory; }
uint64_t bench_cycle(Bench* b) { return b->dram.cycle; }
void bench_tick(Bench* b) {
    b->dram.sample();
    b->dram.drive();
}
void bench_fault(Bench* b, uint32_t kind, uint64_t begin, uint64_t end) {
    b->dram.faults.push_back({static_cast<moesaic::FaultKind>(kind), begin, end});
}
uint32_t bench_violations(Bench* b) { return b->dram.violations.size(); }
const char* bench_violation(Bench* b, uint32_t i) { return b->dram.violations[i].c_str(); }
void bench_statistics(Bench* b, moesaic::PortStatistics* out) { *out = b->dram.ports[0].statistics; }
}
