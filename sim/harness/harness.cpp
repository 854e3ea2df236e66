// The C interface of a simulated accelerator: the Verilated top, its clock, its DRAM and its
// register bus. Python calls it through ctypes (sim/device.py) and never runs per cycle.
//
// The inputs of Vtop are registered (sim/registered.py): what is written to them shows in the cycle
// after the next rising edge, and one evaluation there settles everything. So a tick first looks at
// the outputs of the cycle that ends, then sets the inputs of the cycle that begins.
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "Vtop.h"
#include "dram.h"
#include "ports.h"  // generated from the Verilog: MOESAIC_MASTERS(READ, READ_WRITE), MOESAIC_PROBES
#include "profile.h"
#include "verilated.h"

#if VM_TRACE_FST
#include "verilated_fst_c.h"
using TraceFile = VerilatedFstC;
#elif VM_TRACE_VCD
#include "verilated_vcd_c.h"
using TraceFile = VerilatedVcdC;
#elif VM_TRACE_SAIF
#include "verilated_saif_c.h"
using TraceFile = VerilatedSaifC;
#endif

// A failing assertion or a combinational loop must reach Python as an error, not abort the process.
void vl_fatal(const char* file, int line, const char*, const char* message) VL_MT_UNSAFE {
    throw std::runtime_error(std::string(message) + " (" + file + ":" + std::to_string(line) + ")");
}
void vl_stop(const char* file, int line, const char* hierarchy) VL_MT_UNSAFE {
    throw std::runtime_error(std::string("an assertion failed in ") + hierarchy + " (" + file + ":" +
                             std::to_string(line) + ")");
}
void vl_finish(const char* file, int line, const char* hierarchy) VL_MT_UNSAFE {
    vl_stop(file, line, hierarchy);
}

namespace {

using moesaic::AddressChannel;
using moesaic::Dram;
using moesaic::DramConfig;
using moesaic::PortSignals;

// Mirrored in sim/device.py.
enum RunResult : int { kCyclesDone = 0, kInterrupt = 1, kViolation = 2, kFailure = -1 };
enum BusResult : int { kBusTimeout = -2 };  // otherwise 0 to 3, the AXI response, or kFailure

template <typename T>
uint8_t* bytes_of(T& signal) {
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) % 8 == 0 ||
                  sizeof(T) % 4 == 0);
    return reinterpret_cast<uint8_t*>(&signal);
}

#define ADDRESS_CHANNEL(p, c)                                                          \
    AddressChannel {                                                                   \
        {&top.p##_##c##addr, sizeof(top.p##_##c##addr)}, &top.p##_##c##len,            \
            &top.p##_##c##size, &top.p##_##c##burst, &top.p##_##c##valid,              \
            &top.p##_##c##ready                                                        \
    }
#define BIND_READ(n)                                                                   \
    PortSignals n;                                                                     \
    n.name = #n;                                                                       \
    n.data_bytes = sizeof(top.m_axi_##n##_rdata);                                      \
    n.ar = ADDRESS_CHANNEL(m_axi_##n, ar);                                             \
    n.rdata = bytes_of(top.m_axi_##n##_rdata);                                         \
    n.rresp = &top.m_axi_##n##_rresp;                                                  \
    n.rlast = &top.m_axi_##n##_rlast;                                                  \
    n.rvalid = &top.m_axi_##n##_rvalid;                                                \
    n.rready = &top.m_axi_##n##_rready;
#define BIND_WRITE(n)                                                                  \
    n.writable = true;                                                                 \
    n.aw = ADDRESS_CHANNEL(m_axi_##n, aw);                                             \
    n.wdata = bytes_of(top.m_axi_##n##_wdata);                                         \
    n.wstrb = bytes_of(top.m_axi_##n##_wstrb);                                         \
    n.wlast = &top.m_axi_##n##_wlast;                                                  \
    n.wvalid = &top.m_axi_##n##_wvalid;                                                \
    n.wready = &top.m_axi_##n##_wready;                                                \
    n.bresp = &top.m_axi_##n##_bresp;                                                  \
    n.bvalid = &top.m_axi_##n##_bvalid;                                                \
    n.bready = &top.m_axi_##n##_bready;
#define ADD_READ(n) { BIND_READ(n) dram.add_port(n); }
#define ADD_READ_WRITE(n) { BIND_READ(n) BIND_WRITE(n) dram.add_port(n); }

class Simulator {
  public:
    Simulator(uint64_t base, uint64_t size, const DramConfig& config, uint32_t power_up_seed)
        : context(make_context(power_up_seed)),
          model(std::make_unique<Vtop>(context.get(), "top")),
          top(*model),
          dram(base, size, config) {
        top.clk = 0;
        MOESAIC_MASTERS(ADD_READ, ADD_READ_WRITE)
        clear_bus();
        reset(8);
    }
    ~Simulator() {
        close_trace();
        try {
            model->final();
        } catch (const std::exception&) {  // the failure that matters was reported before
        }
    }

    void reset(uint32_t cycles) {
        clear_bus();
        dram.reset();
        top.rst = 1;
        for (uint32_t i = 0; i < cycles; ++i) {  // what the design presents meanwhile is no request
            ++dram.cycle;
            edge();
        }
        top.rst = 0;
        dram.drive();
        edge();
    }

    void tick() {
        dram.sample();
        probe();
        dram.drive();
        edge();
    }

    int run(uint64_t max_cycles, bool stop_on_interrupt) {
        const size_t known = dram.violations.size();
        for (uint64_t i = 0; i < max_cycles; ++i) {
            if (stop_on_interrupt && top.irq) return kInterrupt;
            tick();
            if (VL_UNLIKELY(dram.violations.size() != known)) return kViolation;
        }
        return stop_on_interrupt && top.irq ? kInterrupt : kCyclesDone;
    }

    int write_register(uint32_t offset, uint32_t value, uint32_t timeout) {
        top.s_axil_awaddr = offset;
        top.s_axil_wdata = value;
        top.s_axil_wstrb = 0xF;
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 1;
        int result = kBusTimeout;
        tick();
        for (uint32_t i = 0; i < timeout && result == kBusTimeout; ++i) {
            if (top.s_axil_awready) top.s_axil_awvalid = 0;
            if (top.s_axil_wready) top.s_axil_wvalid = 0;
            if (top.s_axil_bvalid) {
                result = top.s_axil_bresp;
                clear_bus();
            }
            tick();
        }
        clear_bus();
        return result;
    }

    int read_register(uint32_t offset, uint32_t* value, uint32_t timeout) {
        top.s_axil_araddr = offset;
        top.s_axil_arvalid = top.s_axil_rready = 1;
        int result = kBusTimeout;
        tick();
        for (uint32_t i = 0; i < timeout && result == kBusTimeout; ++i) {
            if (top.s_axil_arready) top.s_axil_arvalid = 0;
            if (top.s_axil_rvalid) {
                result = top.s_axil_rresp;
                *value = top.s_axil_rdata;
                clear_bus();
            }
            tick();
        }
        clear_bus();
        return result;
    }

    void open_trace(const char* path) {
#if VM_TRACE
        trace = std::make_unique<TraceFile>();
        top.trace(trace.get(), 99);
        trace->open(path);
        if (!trace->isOpen()) throw std::runtime_error(std::string("cannot write ") + path);
#else
        (void)path;
        throw std::runtime_error("this simulator was built without tracing");
#endif
    }

    void close_trace() {
#if VM_TRACE
        if (trace) trace->close();
        trace.reset();
#endif
    }

    // Profiles the next frame; 0 if this design has no probes.
    int start_profile() {
        profile.start(dram.ports.size());
        return MOESAIC_PROBES != 0;
    }

    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<Vtop> model;
    Vtop& top;
    Dram dram;
    moesaic::Profile profile;
    std::string error;

  private:
    // What the Verilog does not initialise starts random, so that nothing can rely on zeros there.
    static std::unique_ptr<VerilatedContext> make_context(uint32_t power_up_seed) {
        auto context = std::make_unique<VerilatedContext>();
        context->randReset(power_up_seed ? 2 : 0);
        context->randSeed(static_cast<int>(power_up_seed));
        context->traceEverOn(VM_TRACE);
        return context;
    }
    void probe() {
#if MOESAIC_PROBES
        if (VL_LIKELY(!profile.on)) return;
        if (!top.probe_running) {
            if (profile.cycle) profile.stop(dram);
            return;
        }
#define STATE(unit) static_cast<uint16_t>(top.probe_##unit),
        const uint16_t states[] = {MOESAIC_PROBED_UNITS(STATE)};
        uint16_t counts[MOESAIC_PROBED_EXPERTS];
        std::memcpy(counts, bytes_of(top.probe_counts), sizeof(counts));
        profile.sample(states, top.probe_take, top.probe_give, counts, MOESAIC_PROBED_EXPERTS,
                       dram);
#endif
    }
    void edge() {
        top.clk = 1;
        top.eval();
        dump();
        top.clk = 0;
        top.eval();
        dump();
    }
    void dump() {
        context->timeInc(1);
#if VM_TRACE
        if (VL_UNLIKELY(trace != nullptr)) trace->dump(context->time());
#endif
    }
    void clear_bus() {
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 0;
        top.s_axil_arvalid = top.s_axil_rready = 0;
        top.s_axil_awprot = top.s_axil_arprot = 0;
    }

#if VM_TRACE
    std::unique_ptr<TraceFile> trace;
#endif
};

std::string creation_error;

template <typename Action>
int guarded(Simulator* simulator, Action action) {
    try {
        return action();
    } catch (const std::exception& exception) {
        simulator->error = exception.what();
        return kFailure;
    }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Simulator* moesaic_create(uint64_t base, uint64_t size, const DramConfig* config,
                                  uint32_t power_up_seed) {
    try {
        return new Simulator(base, size, *config, power_up_seed);
    } catch (const std::exception& exception) {
        creation_error = exception.what();
        return nullptr;
    }
}
EXPORT void moesaic_destroy(Simulator* s) { delete s; }
EXPORT const char* moesaic_error(Simulator* s) {
    return s ? s->error.c_str() : creation_error.c_str();
}
EXPORT void moesaic_configure(Simulator* s, const DramConfig* config) { s->dram.configure(*config); }
EXPORT int moesaic_reset(Simulator* s, uint32_t cycles) {
    return guarded(s, [&] { s->reset(cycles); return 0; });
}
EXPORT int moesaic_run(Simulator* s, uint64_t max_cycles, int stop_on_interrupt) {
    return guarded(s, [&] { return s->run(max_cycles, stop_on_interrupt); });
}
EXPORT int moesaic_write_register(Simulator* s, uint32_t offset, uint32_t value, uint32_t timeout) {
    return guarded(s, [&] { return s->write_register(offset, value, timeout); });
}
EXPORT int moesaic_read_register(Simulator* s, uint32_t offset, uint32_t* value, uint32_t timeout) {
    return guarded(s, [&] { return s->read_register(offset, value, timeout); });
}
EXPORT uint8_t* moesaic_memory(Simulator* s) { return s->dram.memory; }
EXPORT uint64_t moesaic_cycles(Simulator* s) { return s->dram.cycle; }
EXPORT int moesaic_interrupt(Simulator* s) { return s->top.irq; }
EXPORT uint32_t moesaic_port_count(Simulator* s) { return s->dram.ports.size(); }
EXPORT const char* moesaic_port_name(Simulator* s, uint32_t i) {
    return s->dram.ports[i].signals().name;
}
EXPORT uint32_t moesaic_port_bytes(Simulator* s, uint32_t i) {
    return s->dram.ports[i].signals().data_bytes;
}
EXPORT void moesaic_port_statistics(Simulator* s, uint32_t i, moesaic::PortStatistics* out) {
    *out = s->dram.ports[i].statistics;
}
EXPORT void moesaic_clear_statistics(Simulator* s) {
    for (auto& port : s->dram.ports) port.statistics = {};
}
EXPORT int moesaic_start_profile(Simulator* s) { return s->start_profile(); }
EXPORT uint32_t moesaic_profile_cycles(Simulator* s) { return s->profile.cycle; }
EXPORT uint64_t moesaic_profile_records(Simulator* s, const moesaic::ProfileRecord** out) {
    *out = s->profile.records.data();
    return s->profile.records.size();
}
EXPORT uint64_t moesaic_profile_bytes(Simulator* s, const uint32_t** out) {
    *out = s->profile.bytes.data();
    return s->profile.bytes.size();
}
EXPORT void moesaic_add_fault(Simulator* s, uint32_t kind, uint64_t begin, uint64_t end) {
    s->dram.faults.push_back({static_cast<moesaic::FaultKind>(kind), begin, end});
}
EXPORT void moesaic_clear_faults(Simulator* s) { s->dram.faults.clear(); }
EXPORT uint32_t moesaic_violation_count(Simulator* s) { return s->dram.violations.size(); }
EXPORT const char* moesaic_violation(Simulator* s, uint32_t i) {
    return s->dram.violations[i].c_str();
}
EXPORT void moesaic_clear_violations(Simulator* s) { s->dram.violations.clear(); }
EXPORT int moesaic_open_trace(Simulator* s, const char* path) {
    return guarded(s, [&] { s->open_trace(path); return 0; });
}
EXPORT void moesaic_close_trace(Simulator* s) { s->close_trace(); }
