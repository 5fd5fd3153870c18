/* The one header that includes <linux/userfaultfd.h>, with what Debian 12's headers (6.1) lack.
 * Numbers are those of Linux 6.12's include/uapi. */
#ifndef LARDER_KERNEL_H
#define LARDER_KERNEL_H

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move; /* out: bytes moved, or -errno when the first page failed */
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1ULL << 16)
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
/* Asked of a pidfd, and of a namespace's descriptor. */
#ifndef PIDFD_GET_PID_NAMESPACE
#define PIDFD_GET_PID_NAMESPACE _IO(0xFF, 5)
#endif
#ifndef NS_GET_TGID_FROM_PIDNS
#define NS_GET_TGID_FROM_PIDNS _IOR(0xb7, 0x7, int)
#endif
#ifndef NS_GET_TGID_IN_PIDNS
#define NS_GET_TGID_IN_PIDNS _IOR(0xb7, 0x9, int)
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef KCMP_VM
#define KCMP_VM 1
#endif

/* Of sched_setattr(2), which glibc 2.36 lacks. */
struct sched_attributes {
	__u32 size;
	__u32 policy;
	__u64 flags;
	__s32 nice;
	__u32 priority;
	__u64 runtime; /* ns; for SCHED_OTHER the slice, since Linux 6.12 */
	__u64 deadline;
	__u64 period;
};
enum { SHORTEST_SLICE_NS = 100000 };

/* /proc/PID/pagemap, one u64 a page (Documentation/admin-guide/mm/pagemap.rst). */
#define PM_PRESENT   (1ULL << 63)
#define PM_SWAP	     (1ULL << 62) /* set for guard pages as well */
#define PM_GUARD     (1ULL << 58)
#define PM_EXCLUSIVE (1ULL << 56) /* mapped once, by this process */
#define PM_UFFD_WP   (1ULL << 57)

#ifndef PAGEMAP_SCAN
struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};
struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#endif
/* Asked of an open /proc/PID/maps: the mapping that covers an address. */
#ifndef PROCMAP_QUERY
struct procmap_query {
	__u64 size;
	__u64 query_flags;
	__u64 query_addr;
	__u64 vma_start;
	__u64 vma_end;
	__u64 vma_flags;
	__u64 vma_page_size;
	__u64 vma_offset;
	__u64 inode;
	__u32 dev_major;
	__u32 dev_minor;
	__u32 vma_name_size;
	__u32 build_id_size;
	__u64 vma_name_addr;
	__u64 build_id_addr;
};
#define PROCMAP_QUERY _IOWR('f', 17, struct procmap_query)
#endif
#ifndef PROCMAP_QUERY_COVERING_OR_NEXT_VMA
#define PROCMAP_QUERY_COVERING_OR_NEXT_VMA 0x10
#endif
#ifndef PAGE_IS_HUGE
#define PAGE_IS_HUGE (1 << 6) /* mapped by a PMD */
#endif

#endif
