-- Wireshark dissector for link-layer address assignment over DHCPv6: IA_LL (138), LLADDR (139; RFC 8947), QUAD (140;
-- RFC 8948) and Flowlane's vendor option. dhcpv6.md, next to this file, says how to use it.
--
-- A post-dissector: it adds to what Wireshark's own DHCPv6 dissector shows, and needs nothing of it.

local ENTERPRISE = 0xf10a0001

local STATUS_CODE, VENDOR, IA_LL, LLADDR, QUAD = 13, 17, 138, 139, 140

local statuses = {
    [0] = "Success", [1] = "UnspecFail", [2] = "NoAddrsAvail", [3] = "NoBinding", [4] = "NotOnLink",
    [5] = "UseMulticast", [6] = "NoPrefixAvail", [10] = "NotAllowed",
}
local quadrants = { [0] = "AAI (administrator)", [1] = "ELI (company)", [2] = "reserved", [3] = "SAI (standard)" }
local fields = { [0] = "destination", [1] = "source" }
local restores = { [0] = "keep", [1] = "clear", [2] = "set" }
local link_types = { [1] = "Ethernet", [6] = "IEEE 802" }
local names = { [VENDOR] = "Flow", [STATUS_CODE] = "Status Code", [IA_LL] = "IA_LL", [LLADDR] = "LLADDR", [QUAD] = "QUAD" }

local flowlane = Proto("flowlane", "Flow addresses over DHCPv6")
local f = {
    iaid = ProtoField.uint32("flowlane.ia_ll.iaid", "IAID"),
    t1 = ProtoField.uint32("flowlane.ia_ll.t1", "T1 (s)"),
    t2 = ProtoField.uint32("flowlane.ia_ll.t2", "T2 (s)"),
    link_type = ProtoField.uint16("flowlane.lladdr.type", "Link-layer type", base.DEC, link_types),
    link_length = ProtoField.uint16("flowlane.lladdr.length", "Link-layer address length"),
    first = ProtoField.ether("flowlane.lladdr.first", "First address"),
    other = ProtoField.bytes("flowlane.lladdr.other", "First address"),
    extra = ProtoField.uint32("flowlane.lladdr.extra", "Extra addresses"),
    valid = ProtoField.uint32("flowlane.lladdr.valid_lifetime", "Valid lifetime (s)"),
    status = ProtoField.uint16("flowlane.status", "Status", base.DEC, statuses),
    status_text = ProtoField.string("flowlane.status.text", "Status text"),
    quadrant = ProtoField.uint8("flowlane.quad.quadrant", "Quadrant", base.DEC, quadrants),
    preference = ProtoField.uint8("flowlane.quad.preference", "Preference"),
    destination4 = ProtoField.ipv4("flowlane.flow.destination", "Destination"),
    destination6 = ProtoField.ipv6("flowlane.flow.destination6", "Destination"),
    rate = ProtoField.uint64("flowlane.flow.rate", "Rate (bit/s)"),
    field = ProtoField.uint8("flowlane.flow.field", "Flow address in", base.DEC, fields),
    name = ProtoField.string("flowlane.flow.name", "Name"),
    hop_limit = ProtoField.uint8("flowlane.flow.hop_limit", "Hop limit"),
    crossed = ProtoField.bytes("flowlane.flow.crossed", "Crossed"),
    restore = ProtoField.uint8("flowlane.flow.restore", "Restore", base.DEC, restores),
    restore_value = ProtoField.uint8("flowlane.flow.restore.value", "Mask or DSCP"),
    only_with_a_way = ProtoField.none("flowlane.flow.only_with_a_way", "Only with a way"),
    path = ProtoField.uint8("flowlane.flow.path", "Path"),
    paths = ProtoField.uint8("flowlane.flow.paths", "Paths"),
    unknown = ProtoField.bytes("flowlane.unknown", "Unknown"),
}
flowlane.fields = f

local malformed = ProtoExpert.new("flowlane.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
flowlane.experts = { malformed }

local udp_source, udp_destination = Field.new("udp.srcport"), Field.new("udp.dstport")
local udp_payload = Field.new("udp.payload")

-- Calls visit(code, value) for each option of a range; returns false where a length runs over the end.
local function each_option(range, visit)
    local at = 0
    while at < range:len() do
        if range:len() - at < 4 then return false end
        local code, length = range(at, 2):uint(), range(at + 2, 2):uint()
        if range:len() - at - 4 < length then return false end
        visit(code, range(at, length + 4), length > 0 and range(at + 4, length) or nil)
        at = at + 4 + length
    end
    return true
end

local function length_of(value)
    return value and value:len() or 0
end

local sub_options = {
    [1] = function(tree, value)
        local length = length_of(value)
        if length == 4 then tree:add(f.destination4, value) return true end
        if length == 16 then tree:add(f.destination6, value) return true end
        return false
    end,
    [2] = function(tree, value)
        if length_of(value) ~= 8 then return false end
        tree:add(f.rate, value)
        return true
    end,
    [3] = function(tree, value)
        if length_of(value) ~= 1 then return false end
        tree:add(f.field, value)
        return true
    end,
    [4] = function(tree, value)
        if value then tree:add(f.name, value) end
        return length_of(value) <= 64
    end,
    [5] = function(tree, value)
        if length_of(value) ~= 1 then return false end
        tree:add(f.hop_limit, value)
        return true
    end,
    [6] = function(tree, value)
        local length = length_of(value)
        for at = 0, length - 16, 16 do tree:add(f.crossed, value(at, 16)) end
        return length % 16 == 0 and length <= 512
    end,
    [7] = function(tree, value)
        if length_of(value) ~= 2 then return false end
        tree:add(f.restore, value(0, 1))
        tree:add(f.restore_value, value(1, 1))
        return true
    end,
    [8] = function(tree, value)
        tree:add(f.only_with_a_way)
        return value == nil
    end,
    [9] = function(tree, value)
        if length_of(value) ~= 1 then return false end
        tree:add(f.path, value)
        return true
    end,
    [10] = function(tree, value)
        if length_of(value) ~= 1 then return false end
        tree:add(f.paths, value)
        return true
    end,
}

local dissect_options

local options = {
    [STATUS_CODE] = function(tree, value)
        if length_of(value) < 2 then return false end
        tree:add(f.status, value(0, 2))
        if value:len() > 2 then tree:add(f.status_text, value(2)) end
        return true
    end,
    [VENDOR] = function(tree, value)
        if value:len() == 4 then return true end
        return each_option(value(4), function(code, whole, sub_value)
            local dissect = sub_options[code]
            if not dissect then
                tree:add(f.unknown, whole)
            elseif not dissect(tree, sub_value) then
                tree:add_proto_expert_info(malformed, "Sub-option " .. code .. " has a wrong length")
            end
        end)
    end,
    [IA_LL] = function(tree, value)
        if length_of(value) < 12 then return false end
        tree:add(f.iaid, value(0, 4))
        tree:add(f.t1, value(4, 4))
        tree:add(f.t2, value(8, 4))
        return value:len() == 12 or dissect_options(tree, value(12))
    end,
    [LLADDR] = function(tree, value)
        if length_of(value) < 12 then return false end
        local length = value(2, 2):uint()
        if value:len() < 12 + length then return false end
        tree:add(f.link_type, value(0, 2))
        tree:add(f.link_length, value(2, 2))
        if length > 0 then tree:add(length == 6 and f.first or f.other, value(4, length)) end
        tree:add(f.extra, value(4 + length, 4))
        tree:add(f.valid, value(8 + length, 4))
        if value:len() > 12 + length then tree:add(f.unknown, value(12 + length)) end
        return true
    end,
    [QUAD] = function(tree, value)
        local length = length_of(value)
        for at = 0, length - 2, 2 do
            tree:add(f.quadrant, value(at, 1))
            tree:add(f.preference, value(at + 1, 1))
        end
        return length % 2 == 0
    end,
}

local function is_ours(code, value)
    if code == VENDOR then return length_of(value) >= 4 and value(0, 4):uint() == ENTERPRISE end
    return options[code] ~= nil
end

function dissect_options(tree, range)
    return each_option(range, function(code, whole, value)
        if not is_ours(code, value) then return end
        local branch = tree:add(whole, names[code] .. " (" .. code .. ")")
        if not options[code](branch, value) then
            branch:add_proto_expert_info(malformed, names[code] .. " has a wrong length")
        end
    end)
end

-- Whether a message says anything about flow addresses; others are left to Wireshark.
local function concerns_flows(range)
    local found = false
    each_option(range, function(code, _, value)
        found = found or code == IA_LL or code == QUAD or (code == VENDOR and is_ours(code, value))
    end)
    return found
end

function flowlane.dissector(_, _, root)
    local payload, source, destination = udp_payload(), udp_source(), udp_destination()
    if not (payload and source and destination) then return end
    local ports = { [546] = true, [547] = true }
    if not (ports[source.value] and ports[destination.value]) then return end
    local range = payload.range
    -- Client and server messages only (RFC 9915 section 8): flow addresses are asked for on the link itself.
    if range:len() <= 4 or range(0, 1):uint() > 11 or not concerns_flows(range(4)) then return end
    local tree = root:add(flowlane, range)
    if not dissect_options(tree, range(4)) then
        tree:add_proto_expert_info(malformed, "An option runs over the end of the message")
    end
end

register_postdissector(flowlane)
