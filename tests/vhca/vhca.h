/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vhca: InfiniBand HCAs and a switch made of software, for tests.
 *
 * Locks, outermost first:
 *
 *   vhca_mutex   the data path. One work item at a time moves packets, so that
 *                whoever holds it sees no packet under way: the list of QPs, the
 *                attributes of a QP, the keys of memory regions.
 *   vhca_lock    management state: both ends of every cable, what a subnet
 *                manager writes to ports and switches, counters. Taken with
 *                interrupts off, as ib_mad may ask an agent in atomic context.
 *   qp->lock     the rings of a QP or SRQ (interrupts off).
 *   cq->lock     the ring of a CQ (interrupts off).
 */
#ifndef VHCA_H
#define VHCA_H

#undef pr_fmt
#define pr_fmt(fmt) "vhca: " fmt

#include <linux/configfs.h>
#include <linux/mutex.h>
#include <linux/version.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <rdma/ib_mad.h>
#include <rdma/ib_smi.h>
#include <rdma/ib_verbs.h>

#define VHCA_MAX_PORTS		4	/* of an HCA */
#define VHCA_SWITCH_PORTS	36	/* of a switch, without its port 0 */
#define VHCA_GUIDS		8	/* of a port: one block of GUIDInfo */
#define VHCA_PKEYS		64	/* of a port: two blocks of P_KeyTable */
#define VHCA_MAX_SGE		32
#define VHCA_MAX_WR		8192
#define VHCA_MAX_CQE		65535
#define VHCA_MAX_INLINE		256
#define VHCA_MTU		4096	/* bytes of payload in a packet */
#define VHCA_GRH_SIZE		40
#define VHCA_LOCAL_LKEY		1	/* memory regions have keys from 256 on */
#define VHCA_LID_TOP		0xbfff	/* the last one for a single port */
#define VHCA_LID_PERMISSIVE	0xffff
#define VHCA_MLID_BASE		0xc000
#define VHCA_MLIDS		1024
#define VHCA_MFT_POSITIONS	DIV_ROUND_UP(VHCA_SWITCH_PORTS + 1, 16)

struct vhca_dev;
struct vhca_qp;

extern struct mutex vhca_mutex;
extern spinlock_t vhca_lock;
extern struct workqueue_struct *vhca_wq;
extern bool vhca_trace;

#define trace(fmt, ...) do {						\
	if (vhca_trace)							\
		pr_info("trace: " fmt "\n", ##__VA_ARGS__);		\
} while (0)

struct vhca_counters {
	u64 xmit_words, rcv_words;	/* of four bytes, as PerfMgt counts */
	u64 xmit_packets, rcv_packets;
	u64 mcast_xmit, mcast_rcv;
	u32 discards;
	u32 link_downed;
	u32 vl15_dropped;
};

/**
 * struct vhca_end - one end of a cable
 * @sw: the switch whose port this is, or NULL
 * @port: the HCA port that this is, or NULL
 * @num: number of the port
 * @peer: the other end, NULL without a cable
 * @cut: somebody holds the link down
 * @pi: PortInfo as on the wire; everything that is told of a port is read from it
 */
struct vhca_end {
	struct vhca_switch *sw;
	struct vhca_port *port;
	u8 num;
	struct vhca_end *peer;
	bool cut;
	struct ib_port_info pi;
	__be16 pkeys[VHCA_PKEYS];
	u8 sl2vl[8];
	u8 vlarb[4][IB_SMP_DATA_SIZE];
	struct vhca_counters count;
};

/**
 * struct vhca_switch - a switch
 * @end: its ports; 0 is the one that manages it
 * @lft: linear forwarding table: port of each LID, 255 for none
 * @lft_top: LIDs above are not forwarded
 * @mft: multicast forwarding table: ports of each MLID, 16 to a position
 * @changed: SwitchInfo.PortStateChange
 */
struct vhca_switch {
	struct config_group group;
	struct list_head node;
	__be64 guid;
	char desc[IB_DEVICE_NODE_DESC_MAX];
	struct vhca_end end[VHCA_SWITCH_PORTS + 1];
	u8 lft[VHCA_LID_TOP + 1];
	u16 lft_top;
	u16 mft[VHCA_MLIDS][VHCA_MFT_POSITIONS];
	u8 lifetime;
	bool changed;
	struct work_struct trap;
	u32 tid;
};

/**
 * struct vhca_port - a port of an HCA
 * @guid: GUIDs; GID i is the subnet's prefix and guid[i]
 * @special: QP0 and QP1
 * @drop: how many more MADs get lost
 * @delay_ms: how much later MADs leave
 * @trap: tells the subnet manager that description or capabilities have changed
 */
struct vhca_port {
	struct vhca_dev *dev;
	struct vhca_end end;
	__be64 guid[VHCA_GUIDS];
	struct vhca_qp *special[2];
	u32 drop;
	u32 delay_ms;
	struct work_struct trap;
	bool desc_changed;
	u32 tid;
};

/* What an HCA is to be. */
struct vhca_spec {
	char name[IB_DEVICE_NAME_MAX];
	u8 ports;
	u64 node_guid;
	u64 sys_image_guid;
	u64 port_guid[VHCA_MAX_PORTS];
	struct vhca_switch *sw[VHCA_MAX_PORTS];
	char board_id[32];
	char hca_type[32];
	char fw_ver[32];
	char desc[IB_DEVICE_NODE_DESC_MAX];
	u32 driver_id;
	u32 vendor_part_id;
	bool vf;
};

struct vhca_dev {
	struct ib_device ibdev;
	struct ib_device_ops ops;	/* a copy: the driver id differs */
	struct vhca_spec spec;
	struct vhca_dev **owner;	/* where it is known; config.c */
	struct vhca_port port[VHCA_MAX_PORTS];
	struct xarray qps;		/* by number; vhca_mutex */
	u32 next_qpn;
	struct xarray mrs;		/* by key >> 8; vhca_mutex */
	u32 next_mr;
	u32 late;			/* MADs that are held back; vhca_mutex */
	wait_queue_head_t late_gone;
};

struct vhca_ucontext {
	struct ib_ucontext ib;
};

struct vhca_pd {
	struct ib_pd ib;
};

struct vhca_cq {
	struct ib_cq ib;
	spinlock_t lock;
	struct ib_wc *ring;
	u32 size, head, tail;		/* one slot stays empty */
	enum ib_cq_notify_flags armed;
	bool full;			/* told already */
};

/* An address vector, copied into each work request. */
struct vhca_av {
	u16 dlid;
	u8 sl;
	u8 path_bits;
	u8 port;
	bool grh;
	u8 sgid_index;
	u8 hop_limit;
	u8 traffic_class;
	u32 flow_label;
	union ib_gid dgid;
};

struct vhca_ah {
	struct ib_ah ib;
	struct vhca_av av;
};

struct vhca_mr {
	struct ib_mr ib;
	u32 key;			/* in force; consumers write the next one to ib.rkey early */
	bool valid;
	bool dma;			/* all of the kernel's memory */
	int access;
	void *base;			/* user memory, mapped once */
	struct ib_umem *umem;
	u64 *pages;			/* alloc_mr: addresses in the kernel */
	u32 max_pages, n_pages;
};

struct vhca_send {
	u64 wr_id;
	enum ib_wr_opcode opcode;
	int flags;
	union {
		__be32 imm;
		u32 invalidate_rkey;
	} ex;
	u64 remote_addr;
	u32 rkey;
	u64 compare_add, swap;
	struct vhca_av av;
	u32 remote_qpn, remote_qkey;
	u16 pkey_index;
	struct vhca_mr *mr;
	u32 key;
	int access;
	int num_sge;
	u32 inline_len;			/* of the bytes behind the last sge that fits */
	struct ib_sge sge[];
};

struct vhca_recv {
	u64 wr_id;
	int num_sge;
	struct ib_sge sge[];
};

/* Work requests, each of stride bytes. One slot stays empty. */
struct vhca_ring {
	void *slots;
	u32 stride, size, head, tail;
	u32 max_sge;
};

struct vhca_mcast {
	struct list_head node;
	union ib_gid gid;
	u16 lid;
};

struct vhca_srq {
	struct ib_srq ib;
	spinlock_t lock;
	struct vhca_ring rq;
	u32 limit;
};

struct vhca_qp {
	struct ib_qp ib;
	spinlock_t lock;
	struct vhca_ring sq, rq;
	struct ib_qp_attr attr;		/* as modify_qp left it */
	struct vhca_av av;		/* RC, UC */
	struct ib_qp_init_attr init;
	struct delayed_work work;
	struct list_head mcast;		/* vhca_mutex */
	bool dead;			/* vhca_mutex */
	bool established;		/* the event has been told */
	u8 tries;
};

/**
 * struct vhca_packet - what travels over cables
 * @len: bytes in @data
 * @sender: does not get its own multicast
 */
struct vhca_packet {
	u16 slid, dlid;
	u8 sl;
	u16 pkey;
	u32 qkey;
	u32 src_qp, dst_qp;
	bool grh_present, has_imm, solicited;
	__be32 imm;
	struct ib_grh grh;
	struct vhca_qp *sender;
	u32 len;
	u8 data[VHCA_MTU];
};

static inline struct vhca_dev *to_vdev(struct ib_device *ibdev)
{
	return container_of(ibdev, struct vhca_dev, ibdev);
}

static inline struct vhca_port *to_vport(struct ib_device *ibdev, u32 port)
{
	return &to_vdev(ibdev)->port[port - 1];
}

static inline struct vhca_cq *to_vcq(struct ib_cq *cq)
{
	return container_of(cq, struct vhca_cq, ib);
}

static inline struct vhca_qp *to_vqp(struct ib_qp *qp)
{
	return container_of(qp, struct vhca_qp, ib);
}

static inline struct vhca_srq *to_vsrq(struct ib_srq *srq)
{
	return container_of(srq, struct vhca_srq, ib);
}

static inline struct vhca_ah *to_vah(struct ib_ah *ah)
{
	return container_of(ah, struct vhca_ah, ib);
}

static inline struct vhca_mr *to_vmr(struct ib_mr *mr)
{
	return container_of(mr, struct vhca_mr, ib);
}

/* Fields of PortInfo that share a byte. */
static inline u8 pi_state(const struct ib_port_info *pi)
{
	return pi->linkspeed_portstate & 0xf;
}

static inline void pi_set_state(struct ib_port_info *pi, u8 state)
{
	pi->linkspeed_portstate = (pi->linkspeed_portstate & 0xf0) | state;
}

static inline u8 pi_phys_state(const struct ib_port_info *pi)
{
	return pi->portphysstate_linkdown >> 4;
}

static inline void pi_set_phys_state(struct ib_port_info *pi, u8 state)
{
	pi->portphysstate_linkdown &= 0xf;
	pi->portphysstate_linkdown |= state << 4;
}

static inline u8 pi_lmc(const struct ib_port_info *pi)
{
	return pi->mkeyprot_resv_lmc & 7;
}

/* cable.c: ends of cables and the state of links; vhca_lock is held for all of them */
void vhca_end_init(struct vhca_end *end);
int vhca_cable_plug(struct vhca_end *hca, struct vhca_switch *sw);
void vhca_cable_pull(struct vhca_end *end);
void vhca_link_update(struct vhca_end *end);
void vhca_port_event(struct vhca_port *port, enum ib_event_type event);

/* fabric.c: packets; vhca_mutex is held */
void vhca_send_packet(struct vhca_port *port, struct vhca_packet *packet);
struct vhca_port *vhca_resolve(struct vhca_port *from, u16 dlid);
void vhca_switch_trap(struct work_struct *work);
void vhca_port_trap(struct work_struct *work);

/* switch.c */
void vhca_switch_init(struct vhca_switch *sw, u64 guid);
void vhca_switch_release(struct vhca_switch *sw);

/* stats.c: counters of a port. */
struct rdma_hw_stats *vhca_alloc_hw_port_stats(struct ib_device *ibdev, u32 num);
int vhca_get_hw_stats(struct ib_device *ibdev, struct rdma_hw_stats *stats, u32 num, int index);
int vhca_modify_hw_stat(struct ib_device *ibdev, u32 num, unsigned int index, bool enable);

/* sma.c, pma.c: management agents. They answer in place; 0, or the status of the answer. */
#define VHCA_MAD_NOT_MINE	(-1)
int vhca_sma(struct vhca_end *end, struct ib_smp *smp);
int vhca_pma(struct vhca_end *end, struct ib_mad *mad);

/* device.c */
struct vhca_dev *vhca_dev_create(const struct vhca_spec *spec, struct device *parent);
void vhca_dev_destroy(struct vhca_dev *dev);
void vhca_dev_fatal(struct vhca_dev *dev);

/* mad.c */
int vhca_process_mad(struct ib_device *ibdev, int flags, u32 port_num, const struct ib_wc *in_wc,
		     const struct ib_grh *in_grh, const struct ib_mad *in, struct ib_mad *out,
		     size_t *out_size, u16 *out_pkey_index);

/* cq.c */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
#define vhca_cq_udata uverbs_attr_bundle
#else
#define vhca_cq_udata ib_udata
#endif
int vhca_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		   struct vhca_cq_udata *udata);
int vhca_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata);
int vhca_modify_cq(struct ib_cq *ibcq, u16 count, u16 usec);
int vhca_resize_cq(struct ib_cq *ibcq, int cqe, struct ib_udata *udata);
int vhca_poll_cq(struct ib_cq *ibcq, int n, struct ib_wc *wc);
int vhca_peek_cq(struct ib_cq *ibcq, int n);
int vhca_req_notify_cq(struct ib_cq *ibcq, enum ib_cq_notify_flags flags);
void vhca_complete(struct vhca_cq *cq, const struct ib_wc *wc, bool solicited);
void vhca_cq_forget(struct vhca_cq *cq, struct vhca_qp *qp);

/* mr.c; vhca_mutex is held for the copies */
struct ib_mr *vhca_get_dma_mr(struct ib_pd *pd, int access);
struct ib_mr *vhca_reg_user_mr(struct ib_pd *pd, u64 start, u64 length, u64 iova, int access,
			       struct ib_udata *udata);
struct ib_mr *vhca_alloc_mr(struct ib_pd *pd, enum ib_mr_type type, u32 max_sg);
int vhca_map_mr_sg(struct ib_mr *mr, struct scatterlist *sg, int n, unsigned int *offset);
int vhca_dereg_mr(struct ib_mr *mr, struct ib_udata *udata);
enum vhca_copy { VHCA_FROM_MEMORY, VHCA_TO_MEMORY };
int vhca_copy(struct ib_pd *pd, u32 key, u64 addr, void *buf, u32 len, int access,
	      enum vhca_copy way);
int vhca_copy_sges(struct ib_pd *pd, const struct ib_sge *sge, int n, u32 skip, void *buf, u32 len,
		   enum vhca_copy way);
u64 vhca_sge_length(const struct ib_sge *sge, int n);
int vhca_invalidate(struct ib_pd *pd, u32 key);

/* ring.c; the owner's lock is held */
int vhca_ring_init(struct vhca_ring *ring, u32 count, u32 header, u32 max_sge, u32 extra);
void vhca_ring_free(struct vhca_ring *ring);
void *vhca_ring_slot(struct vhca_ring *ring);
void vhca_ring_commit(struct vhca_ring *ring);
void *vhca_ring_first(struct vhca_ring *ring);
void vhca_ring_drop(struct vhca_ring *ring);

/* qp.c */
int vhca_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *init, struct ib_udata *udata);
int vhca_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask, struct ib_udata *udata);
int vhca_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		  struct ib_qp_init_attr *init);
int vhca_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata);
int vhca_create_ah(struct ib_ah *ibah, struct rdma_ah_init_attr *init, struct ib_udata *udata);
int vhca_query_ah(struct ib_ah *ibah, struct rdma_ah_attr *attr);
int vhca_destroy_ah(struct ib_ah *ibah, u32 flags);
int vhca_create_srq(struct ib_srq *ibsrq, struct ib_srq_init_attr *init, struct ib_udata *udata);
int vhca_modify_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr, enum ib_srq_attr_mask mask,
		    struct ib_udata *udata);
int vhca_query_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr);
int vhca_destroy_srq(struct ib_srq *ibsrq, struct ib_udata *udata);
int vhca_attach_mcast(struct ib_qp *ibqp, union ib_gid *gid, u16 lid);
int vhca_detach_mcast(struct ib_qp *ibqp, union ib_gid *gid, u16 lid);
void vhca_qp_error(struct vhca_qp *qp, enum ib_event_type event);
void vhca_qp_kick(struct vhca_qp *qp, unsigned long delay);

/* post.c: work requests on their way in */
int vhca_post_send(struct ib_qp *ibqp, const struct ib_send_wr *wr, const struct ib_send_wr **bad);
int vhca_post_recv(struct ib_qp *ibqp, const struct ib_recv_wr *wr, const struct ib_recv_wr **bad);

int vhca_post_srq_recv(struct ib_srq *ibsrq, const struct ib_recv_wr *wr,
		       const struct ib_recv_wr **bad);

/* run.c, rc.c: work requests being done; vhca_mutex is held */
void vhca_qp_work(struct work_struct *work);
void vhca_send_done(struct vhca_qp *qp, struct vhca_send *wr, enum ib_wc_status status, u32 len);
struct vhca_recv *vhca_recv_next(struct vhca_qp *qp);
void vhca_recv_done(struct vhca_qp *qp, struct ib_wc *wc, bool solicited);
bool vhca_pkeys_match(u16 a, u16 b);
void vhca_deliver(struct vhca_port *port, struct vhca_packet *packet);
long vhca_rc_run(struct vhca_qp *qp, struct vhca_send *wr);

/* A PCI function for an HCA; without a domain there is none. */
struct vhca_function {
	int domain;
	u8 bus, devfn;
	u16 vendor, device;
	u32 class;
	u16 vfs;
	bool multi_function;
	bool ari;	/* behind a root port, on the bus before */
	char serial[32];
	void *hca;
};

/* pci.c */
int vhca_pci_init(const char *name);
void vhca_pci_exit(void);
int vhca_pci_add(const struct vhca_function *spec);
void vhca_pci_del(const struct vhca_function *spec);

/* config.c */
struct vhca_dev *vhca_config_probe(void *hca, struct device *parent, int vf);
void vhca_config_remove(struct vhca_dev *dev);
int vhca_config_init(void);
void vhca_config_exit(void);

#endif
