"""The accelerator as packaged IP: ``component.xml`` in the form of IP-XACT (IEEE 1685-2009)."""

from __future__ import annotations

from xml.etree import ElementTree

from moesaic.hw.bus import REGISTERS, Interface, interfaces, module_ports
from moesaic.spec.arch import ADDRESS_BITS, ArchConfig
from moesaic.spec.boards import REGISTER_WINDOW_BYTES
from moesaic.spec.registers import REGISTER_BYTES

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"
VENDOR, LIBRARY, NAME, VERSION = "moesaic", "ip", "moesaic", "1.0"
VLNV = f"{VENDOR}:{LIBRARY}:{NAME}:{VERSION}"
REGISTER_BLOCK = "reg0"
"""What Vivado calls the registers of a module that it packages by itself."""
VERILOG, OUT_OF_CONTEXT, GUI = "top.v", "out_of_context.xdc", f"xgui/{NAME}_v1_0.tcl"
"""Files of the IP, beside its ``component.xml``."""
_VIEWS = {
    "xilinx_anylanguagesynthesis": ("synthesis", (VERILOG, OUT_OF_CONTEXT)),
    "xilinx_anylanguagebehavioralsimulation": ("simulation", (VERILOG,)),
    "xilinx_xpgui": ("xgui.ui", (GUI,)),
}
_FILE_TYPES = {
    VERILOG: {"fileType": ["verilogSource"]},
    OUT_OF_CONTEXT: {
        "userFileType": ["xdc", "USED_IN_synthesis", "USED_IN_implementation",
                         "USED_IN_out_of_context"]
    },
    GUI: {"fileType": ["tclSource"]},
}  # fmt: skip

ElementTree.register_namespace("spirit", SPIRIT)
ElementTree.register_namespace("xilinx", XILINX)
Element = ElementTree.Element


def _add(parent: Element, path: str, text: object = None, **attributes: object) -> Element:
    """Add ``a/b/c`` below an element; text and attributes, of the same namespace, go to ``c``."""
    for name in path.split("/"):
        space = XILINX if name.startswith("xilinx:") else SPIRIT
        parent = ElementTree.SubElement(parent, f"{{{space}}}{name.removeprefix('xilinx:')}")
    if text is not None:
        parent.text = str(text)
    for name, value in attributes.items():
        parent.set(f"{{{space}}}{name}", str(value))
    return parent


def component_xml(arch: ArchConfig, family: str) -> str:
    """The description of the IP; ``family`` is Vivado's name of the parts that it is for."""
    root = Element(f"{{{SPIRIT}}}component")
    for name, value in zip(("vendor", "library", "name", "version"), VLNV.split(":"), strict=True):
        _add(root, name, value)
    found = interfaces(arch)
    buses = _add(root, "busInterfaces")
    for interface in found:
        _bus(buses, interface)
    spaces = _add(root, "addressSpaces")
    for interface in found:
        if interface.name.startswith("m_axi_"):
            space = _add(spaces, "addressSpace")
            _add(space, "name", interface.name)
            _add(space, "range", 1 << ADDRESS_BITS, format="long")
            _add(space, "width", interface.parameters["DATA_WIDTH"], format="long")
    _registers(_add(root, "memoryMaps"))
    _model(_add(root, "model"), arch)
    _files(_add(root, "fileSets"))
    _add(root, "description", f"Moesaic accelerator, target {arch.name}")
    parameter = _add(root, "parameters/parameter")
    _add(parameter, "name", "Component_Name")
    _add(parameter, "value", f"{NAME}_v1_0", resolve="user", id="PARAM_VALUE.Component_Name",
         order=1)  # fmt: skip
    extensions = _add(root, "vendorExtensions/xilinx:coreExtensions")
    _add(extensions, "xilinx:supportedFamilies/xilinx:family", family, lifeCycle="Production")
    _add(extensions, "xilinx:taxonomies/xilinx:taxonomy", "/UserIP")
    _add(extensions, "xilinx:displayName", f"Moesaic {arch.name}")
    _add(extensions, "xilinx:coreRevision", 1)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _bus(parent: Element, interface: Interface) -> None:
    bus = _add(parent, "busInterface")
    _add(bus, "name", interface.name)
    vendor, library, name, version = interface.bus.split(":")
    kind = {"vendor": vendor, "library": library, "version": version}
    # `name` is a parameter of the helper only by position: the attribute goes in by itself.
    _add(bus, "busType", **kind).set(f"{{{SPIRIT}}}name", name)
    _add(bus, "abstractionType", **kind).set(f"{{{SPIRIT}}}name", f"{name}_rtl")
    mode = _add(bus, "master" if interface.master else "slave")
    if interface.name == REGISTERS:
        _add(mode, "memoryMapRef", memoryMapRef=interface.name)
    elif "DATA_WIDTH" in interface.parameters:
        _add(mode, "addressSpaceRef", addressSpaceRef=interface.name)
    ports = _add(bus, "portMaps")
    for logical, physical in interface.ports.items():
        port = _add(ports, "portMap")
        _add(port, "logicalPort/name", logical)
        _add(port, "physicalPort/name", physical)
    parameters = _add(bus, "parameters")
    for key, value in interface.parameters.items():
        parameter = _add(parameters, "parameter")
        _add(parameter, "name", key)
        _add(parameter, "value", value, id=f"BUSIFPARAM_VALUE.{interface.name.upper()}.{key}")


def _registers(parent: Element) -> None:
    memory = _add(parent, "memoryMap")
    _add(memory, "name", REGISTERS)
    block = _add(memory, "addressBlock")
    _add(block, "name", REGISTER_BLOCK)
    _add(block, "baseAddress", 0, format="long")
    _add(block, "range", REGISTER_WINDOW_BYTES, format="long")
    _add(block, "width", 8 * REGISTER_BYTES, format="long")
    _add(block, "usage", "register")


def _model(model: Element, arch: ArchConfig) -> None:
    views = _add(model, "views")
    for name, (use, _) in _VIEWS.items():
        view = _add(views, "view")
        _add(view, "name", name)
        _add(view, "envIdentifier", f":vivado.xilinx.com:{use}")
        if VERILOG in _VIEWS[name][1]:
            _add(view, "language", "Verilog")
            _add(view, "modelName", "top")
        _add(view, "fileSetRef/localName", f"{name}_view_fileset")
    ports = _add(model, "ports")
    for port in module_ports(arch):
        element = _add(ports, "port")
        _add(element, "name", port.name)
        wire = _add(element, "wire")
        _add(wire, "direction", "out" if port.output else "in")
        if port.bits > 1:
            vector = _add(wire, "vector")
            _add(vector, "left", port.bits - 1, format="long")
            _add(vector, "right", 0, format="long")
        kind = _add(wire, "wireTypeDefs/wireTypeDef")
        _add(kind, "typeName", "wire")
        for name, (_, files) in _VIEWS.items():
            if VERILOG in files:
                _add(kind, "viewNameRef", name)


def _files(sets: Element) -> None:
    for name, (_, files) in _VIEWS.items():
        group = _add(sets, "fileSet")
        _add(group, "name", f"{name}_view_fileset")
        for path in files:
            file = _add(group, "file")
            _add(file, "name", path)
            for kind, values in _FILE_TYPES[path].items():
                for value in values:
                    _add(file, kind, value)


def gui_tcl() -> str:
    """The page of the IP in the tool: there is nothing to choose, for the target has it all."""
    return (
        "proc init_gui { IPINST } {\n"
        '  ipgui::add_param $IPINST -name "Component_Name"\n'
        '  ipgui::add_page $IPINST -name "Moesaic"\n'
        "}\n"
    )
