"""The packaged IP: its description holds together, and agrees with the Verilog.

Nothing here has been opened in Vivado. Order, names and references are held to the rules below,
written from IEEE 1685-2009. Its public schema is not part of this project: where the variable
MOESAIC_IPXACT_SCHEMA names a folder with it and lxml is there, that has its say too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from moesaic.hw.bus import module_ports
from moesaic.hw.vivado import ip
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS

S = f"{{{ip.SPIRIT}}}"
FILES = {ip.VERILOG, ip.OUT_OF_CONTEXT, ip.GUI}
ORDER = {
    "component": "vendor library name version busInterfaces addressSpaces memoryMaps model fileSets"
    " description parameters vendorExtensions",
    "busInterface": "name busType abstractionType master slave portMaps parameters",
    "portMap": "logicalPort physicalPort",
    "parameter": "name value",
    "addressSpace": "name range width",
    "memoryMap": "name addressBlock",
    "addressBlock": "name baseAddress range width usage",
    "model": "views ports",
    "view": "name envIdentifier language modelName fileSetRef",
    "port": "name wire",
    "wire": "direction vector wireTypeDefs",
    "vector": "left right",
    "wireTypeDef": "typeName viewNameRef+",
    "fileSet": "name file+",
    "file": "name fileType userFileType+",
}
"""Children of an element, in the schema's order; + those that may come several times."""
NEEDED = {
    "component": "vendor library name version model",
    "busInterface": "name busType abstractionType portMaps",
    "addressSpace": "name range width",
    "addressBlock": "name baseAddress range width",
    "view": "name envIdentifier",
    "wire": "direction",
    "vector": "left right",
}


def names(root: ElementTree.Element, path: str) -> list[str]:
    """Texts of the elements at a path of the namespace."""
    return [e.text or "" for e in root.findall("/".join(f"{S}{name}" for name in path.split("/")))]


def references(root: ElementTree.Element, name: str) -> list[str]:
    """Values of the elements and attributes of that name."""
    return [e.get(f"{S}{name}", "") for e in root.iter(f"{S}{name}")]


def faults(text: str, arch: ArchConfig) -> list[str]:
    """What is wrong with a description."""
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        return [f"not well formed: {error}"]
    found = []
    for element in root.iter():
        kind = element.tag.removeprefix(S)
        children = [child.tag.removeprefix(S) for child in element]
        if kind in ORDER:
            words = ORDER[kind].split()
            order = [word.rstrip("+") for word in words]
            if unknown := set(children) - set(order):
                found.append(f"{kind} has no {sorted(unknown)}")
                continue
            if children != sorted(children, key=order.index):
                found.append(f"{kind} has its children in another order: {children}")
            once = [word for word in words if not word.endswith("+")]
            found += [f"{kind} has {w} twice" for w in once if children.count(w) > 1]
            missing = set(NEEDED.get(kind, "").split()) - set(children)
            found += [f"{kind} lacks {word}" for word in sorted(missing)]
        elif not children and not (element.text or "").strip() and not element.attrib:
            found += [] if kind in ("master", "slave") else [f"{kind} is empty"]
    ids = [e.get(f"{S}id") for e in root.iter() if e.get(f"{S}id")]
    if len(ids) != len(set(ids)):
        found.append("an id stands there twice")
    found += _loose_ends(root)
    ports = {
        e.findtext(f"{S}name"): (
            e.findtext(f"{S}wire/{S}direction") == "out",
            int(e.findtext(f"{S}wire/{S}vector/{S}left") or 0) + 1,
        )
        for e in root.iter(f"{S}port")
    }
    if ports != {port.name: (port.output, port.bits) for port in module_ports(arch)}:
        found.append("ports are not those of the module")
    return found


def _loose_ends(root: ElementTree.Element) -> list[str]:
    """References that lead nowhere."""
    interfaces = names(root, "busInterfaces/busInterface/name")
    mapped = names(root, "busInterfaces/busInterface/portMaps/portMap/physicalPort/name")
    pairs = [
        ("port", mapped, names(root, "model/ports/port/name")),
        ("file set", names(root, "model/views/view/fileSetRef/localName"),
         names(root, "fileSets/fileSet/name")),
        ("view", [e.text or "" for e in root.iter(f"{S}viewNameRef")],
         names(root, "model/views/view/name")),
        ("file", names(root, "fileSets/fileSet/file/name"), sorted(FILES)),
        ("address space", references(root, "addressSpaceRef"),
         names(root, "addressSpaces/addressSpace/name")),
        ("memory map", references(root, "memoryMapRef"), names(root, "memoryMaps/memoryMap/name")),
    ]  # fmt: skip
    for parameter in root.iter(f"{S}parameter"):
        if parameter.findtext(f"{S}name") == "ASSOCIATED_BUSIF":
            words = (parameter.findtext(f"{S}value") or "").split(":")
            pairs.append(("interface", words, interfaces))
    found = [
        f"there is no {what} {word}" for what, used, there in pairs for word in used
        if word not in there
    ]  # fmt: skip
    found += ["a port is in two interfaces"] if len(mapped) != len(set(mapped)) else []
    return found


@pytest.mark.parametrize("arch", PRESETS.values(), ids=PRESETS)
def test_description_holds_together(arch: ArchConfig) -> None:
    text = ip.component_xml(arch, "zynquplus")
    assert faults(text, arch) == []
    root = ElementTree.fromstring(text.encode())
    assert root.tag == f"{S}component"
    assert ":".join(names(root, n)[0] for n in ("vendor", "library", "name", "version")) == ip.VLNV
    masters = len(root.findall(f".//{S}master/{S}addressSpaceRef"))
    assert masters == len(names(root, "addressSpaces/addressSpace/name")) == arch.weight_ports + 1
    family = root.find(f".//{{{ip.XILINX}}}family")
    assert family is not None and family.text == "zynquplus"


@pytest.mark.parametrize(
    "good, bad, message",
    [
        ("</spirit:model>", "", "not well formed"),
        ("<spirit:version>1.0</spirit:version>", "", "component lacks version"),
        ("<spirit:slave />", "<spirit:slaves />", r"busInterface has no \['slaves'\]"),
        ("<spirit:name>m_axi_w0_araddr</spirit:name>", "<spirit:name>m_axi_w0_addr</spirit:name>",
         "there is no port m_axi_w0_addr"),
        ('addressSpaceRef="m_axi_d"', 'addressSpaceRef="m_axi"', "there is no address space m_axi"),
        ("s_axil:m_axi_w0", "s_axil:m_axi_x", "there is no interface m_axi_x"),
        ("top.v", "top.sv", "there is no file top.sv"),
        (".CLK.ASSOCIATED_RESET", ".CLK.ASSOCIATED_BUSIF", "an id stands there twice"),
        (">39</spirit:left>", ">31</spirit:left>", "ports are not those of the module"),
    ],
)  # fmt: skip
def test_a_fault_in_the_description_is_found(good: str, bad: str, message: str) -> None:
    text = ip.component_xml(PRESETS["nano"], "zynq")
    assert good in text
    found = faults(text.replace(good, bad, 1), PRESETS["nano"])
    assert any(re.match(message, fault) for fault in found), found


@pytest.mark.skipif("MOESAIC_IPXACT_SCHEMA" not in os.environ, reason="no schema is named")
@pytest.mark.parametrize("arch", PRESETS.values(), ids=PRESETS)
def test_description_is_valid_by_the_public_schema(arch: ArchConfig) -> None:
    etree = pytest.importorskip("lxml.etree")
    path = Path(os.environ["MOESAIC_IPXACT_SCHEMA"], "index.xsd")
    schema = etree.XMLSchema(etree.parse(str(path)))
    text = ip.component_xml(arch, "zynquplus")
    assert schema.validate(etree.fromstring(text.encode())), schema.error_log
    assert not schema.validate(etree.fromstring(text.replace("busType", "bus").encode()))


def test_parameters_are_those_of_the_attributes() -> None:
    """Both come from ``hw/bus.py``; here once in letters."""
    text = ip.component_xml(PRESETS["pynq-z2"], "zynq")
    for name, value in {"M_AXI_W0.DATA_WIDTH": 64, "M_AXI_D.MAX_BURST_LENGTH": 16,
                        "RST.POLARITY": "ACTIVE_HIGH", "IRQ.SENSITIVITY": "LEVEL_HIGH",
                        "S_AXIL.PROTOCOL": "AXI4LITE"}.items():  # fmt: skip
        assert f'"BUSIFPARAM_VALUE.{name}">{value}<' in text
