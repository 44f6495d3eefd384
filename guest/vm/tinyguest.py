# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest that decides whether KVM can be believed: 376 bytes, no firmware, no kernel.

It does what a kernel does first, and says each stage on port 0xe9 (QEMU's isa-debugcon):

====== ======================================================================================
stage  meaning
====== ======================================================================================
1      the reset vector was fetched and real-mode code runs
2      protected mode
3      long mode with paging; then it touches 7 MiB and spins LOOPS times
4      the local APIC's timer interrupted a HLT; the guest ends through isa-debug-exit
====== ======================================================================================

The loop is there for the hosts whose /dev/kvm is no hardware: a KVM that interprets ordinary kernel code
(kvm-pvm inside a cloud guest does) gets through every stage of a shorter guest and then takes minutes for a
kernel's first second.  40 million instructions take 10 ms on hardware, 0.2 s under TCG, and longer than any
deadline there.

Layout: a 64 KiB image below 4 GiB, as QEMU maps -bios; the code at offset 0xf000; at 0xfff0 the reset
vector (Intel SDM volume 3, "First Instruction Executed": FFFFFFF0h, with CS.base FFFF0000h), a jump to it.
Page tables at 0x1000-0x4fff (2 MiB pages: 0-16 MiB, the image, the local APIC), IDT at 0x5000.
"""

from __future__ import annotations

DEBUGCON_PORT = 0xE9
EXIT_PORT = 0xF4
EXIT_BYTE = 0x15
EXIT_CODE = EXIT_BYTE << 1 | 1
"""What QEMU's isa-debug-exit makes of EXIT_BYTE."""

LOOPS = 20_000_000
STAGES = ("nothing", "real mode", "protected mode", "long mode with paging", "a timer interrupt")

_SIZE = 0x10000
_ENTRY = 0xF000
_RESET = 0xFFF0

# Machine code | GNU assembler source it was made from.
_LISTING = """
                       | .code16
                       | real:
b031                   | movb $'1', %al             # stage 1: real mode runs
e6e9                   | outb %al, $0xe9
2e660f011668f1         | lgdtl %cs:(0xf000+gdtr-real)
0f20c0                 | movl %cr0, %eax
0c01                   | orb $1, %al
0f22c0                 | movl %eax, %cr0
66ea1bf0ffff0800       | ljmpl $8, $(0xfffff000+prot-real)
                       | .code32
                       | prot:
66b81000               | movw $16, %ax
8ed8                   | movw %ax, %ds
8ec0                   | movw %ax, %es
8ed0                   | movw %ax, %ss
bc00800000             | movl $0x8000, %esp
b032                   | movb $'2', %al             # stage 2: protected mode
e6e9                   | outb %al, $0xe9
31c0                   | xorl %eax, %eax
bf00100000             | movl $0x1000, %edi
b900100000             | movl $0x1000, %ecx
fc                     | cld
f3ab                   | rep stosl
c7050010000003200000   | movl $0x2003, 0x1000
c7050020000003300000   | movl $0x3003, 0x2000
c7051820000003400000   | movl $0x4003, 0x2018
b883000000             | movl $0x83, %eax
bf00300000             | movl $0x3000, %edi
b908000000             | movl $8, %ecx
8907                   | 1: movl %eax, (%edi)
0500002000             | addl $0x200000, %eax
83c708                 | addl $8, %edi
e2f4                   | loop 1b
c705f84f00008300e0ff   | movl $0xffe00083, 0x4ff8
c705b84f00009300e0fe   | movl $0xfee00093, 0x4fb8
0f20e0                 | movl %cr4, %eax
0c20                   | orb $0x20, %al
0f22e0                 | movl %eax, %cr4
b800100000             | movl $0x1000, %eax
0f22d8                 | movl %eax, %cr3
b9800000c0             | movl $0xc0000080, %ecx
0f32                   | rdmsr
80cc01                 | orb $1, %ah
0f30                   | wrmsr
0f20c0                 | movl %cr0, %eax
0d00000080             | orl $0x80000000, %eax
0f22c0                 | movl %eax, %cr0
eab8f0ffff1800         | ljmpl $24, $(0xfffff000+long64-real)
                       | .code64
                       | long64:
b033                   | movb $'3', %al             # stage 3: long mode, paging on
e6e9                   | outb %al, $0xe9
bf00001000             | movl $0x100000, %edi       # touch 7 MiB, page by page through the new tables
b900000e00             | movl $0x700000/8, %ecx
f348ab                 | rep stosq
b9002d3101             | movl $20000000, %ecx       # the loop that an interpreter can't finish in time
ffc9                   | 5: decl %ecx
75fc                   | jnz 5b
bf00500000             | movl $0x5000, %edi
b83cf1ffff             | movl $(0xfffff000+tick-real), %eax
6689042500520000       | movw %ax, 0x5200
66c70425025200001800   | movw $24, 0x5202
66c7042504520000008e   | movw $0x8e00, 0x5204
c1e810                 | shrl $16, %eax
6689042506520000       | movw %ax, 0x5206
b86ef1ffff             | movl $(0xfffff000+idtr-real), %eax
0f0118                 | lidt (%rax)
bf0000e0fe             | movl $0xfee00000, %edi
c787f0000000ff010000   | movl $0x1ff, 0xf0(%rdi)
c7872003000020000000   | movl $0x20, 0x320(%rdi)
c787e00300000b000000   | movl $0xb, 0x3e0(%rdi)
c7878003000040420f00   | movl $1000000, 0x380(%rdi)
fb                     | sti
f4                     | 3: hlt
ebfd                   | jmp 3b
                       | tick:
b034                   | movb $'4', %al             # stage 4: the timer's interrupt came
e6e9                   | outb %al, $0xe9
b015                   | movb $0x15, %al
e6f4                   | outb %al, $0xf4
ebfe                   | 4: jmp 4b
6690                   | .balign 8
0000000000000000       | gdt: .quad 0
ffff0000009bcf00       | .quad 0x00cf9b000000ffff  # selector 8: 32-bit code
ffff00000093cf00       | .quad 0x00cf93000000ffff  # selector 16: data
ffff0000009baf00       | .quad 0x00af9b000000ffff  # selector 24: 64-bit code
1f00                   | gdtr: .word 31
48f1ffff               | .long 0xfffff000+gdt-real
ff0f                   | idtr: .word 0xfff
0050000000000000       | .quad 0x5000
"""


def code() -> bytes:
    """The machine code of the listing."""
    return b"".join(bytes.fromhex(line.partition("|")[0]) for line in _LISTING.strip().splitlines())


def image() -> bytes:
    """The 64 KiB BIOS image; unused bytes are HLT."""
    body = code()
    jump = b"\xe9" + ((_ENTRY - _RESET - 3) & 0xFFFF).to_bytes(2, "little")
    return (b"\xf4" * _ENTRY + body).ljust(_RESET, b"\xf4") + jump.ljust(_SIZE - _RESET, b"\xf4")
