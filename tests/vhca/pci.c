// SPDX-License-Identifier: GPL-2.0
/*
 * PCI functions made of software, for HCAs to sit on: a root bus for each bus
 * number in use, config space as an array, SR-IOV; for ARI a root port before
 * the bus. Everything above is the kernel's own: /sys/bus/pci, MODALIAS, remove
 * and rescan, sriov_numvfs.
 *
 * Domain 0 belongs to the machine; these are in others.
 */
#include <linux/pci.h>
#include <linux/slab.h>
#include "vhca.h"

#define PCIE_CAP	0x40
#define VPD_CAP		0x80
#define VPD_END		0x78	/* a small resource; its name is the PCI core's own */
#define ARI_CAP		0x100
#define SRIOV_CAP	0x110
#define MULTI_FUNCTION	0x80	/* of the header type; PCI_HEADER_TYPE_MFD is newer than 6.1 */
#define VF_OFFSET	8	/* the first virtual function is this far from its physical one */

struct soft_function {
	struct vhca_function spec;
	u8 config[PCI_CFG_SPACE_EXP_SIZE];
	u8 vpd[128];	/* vital product data; empty without a serial number */
};

/**
 * struct soft_bus - a bus with functions on it
 * @root: the root bus: the functions' own, or the one of their root port
 * @bus: the functions'
 * @port: the root port, NULL without
 */
struct soft_bus {
	struct list_head node;
	struct pci_sysdata sysdata;
	struct resource numbers;
	struct pci_bus *root, *bus;
	struct soft_function *port;
	struct soft_function *function[256];
};

static DEFINE_MUTEX(buses_mutex);	/* the list, and who adds or removes functions */
static LIST_HEAD(buses);
static DEFINE_SPINLOCK(function_lock);	/* soft_bus.function */

static struct soft_bus *to_soft(struct pci_bus *bus)
{
	return container_of((struct pci_sysdata *)bus->sysdata, struct soft_bus, sysdata);
}

static u16 config16(const struct soft_function *f, int where)
{
	return f->config[where] | f->config[where + 1] << 8;
}

static void set_config(struct soft_function *f, int where, int size, u32 value)
{
	for (; size--; value >>= 8)
		f->config[where++] = value;
}

/* The physical function whose virtual function has an address, while it is enabled. */
static struct soft_function *physical(struct soft_bus *soft, u8 devfn, int *vf)
{
	int i;

	for (i = 0; i < devfn; i++) {
		struct soft_function *f = soft->function[i];

		if (!f || !f->spec.vfs ||
		    !(config16(f, SRIOV_CAP + PCI_SRIOV_CTRL) & PCI_SRIOV_CTRL_VFE))
			continue;
		*vf = devfn - i - VF_OFFSET;
		if (*vf >= 0 && *vf < config16(f, SRIOV_CAP + PCI_SRIOV_NUM_VF))
			return f;
	}
	return NULL;
}

/* What answers at an address of either bus; a virtual function has none. */
static struct soft_function *function_at(struct pci_bus *bus, unsigned int devfn)
{
	struct soft_bus *soft = to_soft(bus);

	if (soft->port && bus->number == soft->numbers.start)
		return devfn ? NULL : soft->port;
	return soft->function[devfn];
}

/* Number of the next function, for whoever walks them; 0 after the last. */
static u8 next_function(struct soft_bus *soft, unsigned int devfn)
{
	while (++devfn < ARRAY_SIZE(soft->function))
		if (soft->function[devfn])
			return devfn;
	return 0;
}

static int config_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *value)
{
	struct soft_bus *soft = to_soft(bus);
	struct soft_function *f;
	unsigned long flags;
	bool virtual = false;
	int vf, i, at;

	*value = ~0U;
	spin_lock_irqsave(&function_lock, flags);
	f = function_at(bus, devfn);
	if (!f && bus->number == soft->numbers.end) {
		f = physical(soft, devfn, &vf);
		virtual = true;
	}
	if (f) {
		*value = 0;
		for (i = 0; i < size; i++) {
			u8 byte;

			at = where + i;
			byte = f->config[at];
			/* A virtual one has no ids of its own, and no SR-IOV. */
			if (virtual && at < 4)
				byte = 0xff;
			if (virtual && at >= SRIOV_CAP)
				byte = 0;
			if (f != soft->port && at == ARI_CAP + PCI_ARI_CAP + 1)
				byte = virtual ? 0 : next_function(soft, devfn);
			*value |= (u32)byte << 8 * i;
		}
	}
	spin_unlock_irqrestore(&function_lock, flags);
	return f ? PCIBIOS_SUCCESSFUL : PCIBIOS_DEVICE_NOT_FOUND;
}

static bool writable(int at)
{
	return at == PCI_COMMAND || at == PCI_COMMAND + 1 || at == SRIOV_CAP + PCI_SRIOV_CTRL ||
	       at == SRIOV_CAP + PCI_SRIOV_NUM_VF || at == SRIOV_CAP + PCI_SRIOV_NUM_VF + 1;
}

static void read_vpd(struct soft_function *f, u16 at)
{
	int i;

	for (i = 0; i < 4; i++)
		f->config[VPD_CAP + PCI_VPD_DATA + i] =
			at + i < sizeof(f->vpd) ? f->vpd[at + i] : 0;
	set_config(f, VPD_CAP + PCI_VPD_ADDR, 2, at | PCI_VPD_ADDR_F);
}

static int config_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 value)
{
	struct soft_function *f;
	unsigned long flags;
	int i;

	spin_lock_irqsave(&function_lock, flags);
	f = function_at(bus, devfn);
	for (i = 0; f && i < size; i++)
		if (writable(where + i))
			f->config[where + i] = value >> 8 * i;
	/* An address that is written has the data there at once; there is nothing to write. */
	if (f && f->vpd[0] && where == VPD_CAP + PCI_VPD_ADDR && size == 2)
		read_vpd(f, value & PCI_VPD_ADDR_MASK);
	spin_unlock_irqrestore(&function_lock, flags);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops config_ops = { .read = config_read, .write = config_write };

/* A name, and a read-only part with the serial number and a checksum. */
static void make_vpd(struct soft_function *f)
{
	const char *serial = f->spec.serial;
	int i, n = 0, length = strlen(serial);
	u8 sum = 0;

	f->vpd[n++] = PCI_VPD_LRDT_ID_STRING;
	f->vpd[n++] = 4;
	f->vpd[n++] = 0;
	memcpy(f->vpd + n, "vhca", 4);
	n += 4;
	f->vpd[n++] = PCI_VPD_LRDT_RO_DATA;
	f->vpd[n++] = 3 + length + 4;
	f->vpd[n++] = 0;
	n += scnprintf(f->vpd + n, sizeof(f->vpd) - n, "SN%c%s", length, serial);
	memcpy(f->vpd + n, "RV\1", 3);
	n += 3;
	for (i = 0; i < n; i++)
		sum += f->vpd[i];
	f->vpd[n++] = -sum;
	f->vpd[n] = VPD_END;
	set_config(f, PCIE_CAP + PCI_CAP_LIST_NEXT, 1, VPD_CAP);
	set_config(f, VPD_CAP, 1, PCI_CAP_ID_VPD);
}

static void make_config(struct soft_function *f)
{
	const struct vhca_function *spec = &f->spec;

	set_config(f, PCI_VENDOR_ID, 2, spec->vendor);
	set_config(f, PCI_DEVICE_ID, 2, spec->device);
	set_config(f, PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	set_config(f, PCI_CLASS_REVISION, 4, spec->class << 8);
	set_config(f, PCI_HEADER_TYPE, 1, spec->multi_function ? MULTI_FUNCTION : 0);
	set_config(f, PCI_SUBSYSTEM_VENDOR_ID, 2, spec->vendor);
	set_config(f, PCI_CAPABILITY_LIST, 1, PCIE_CAP);
	set_config(f, PCIE_CAP, 2, PCI_CAP_ID_EXP);
	/* Version 2, endpoint. */
	set_config(f, PCIE_CAP + PCI_EXP_FLAGS, 2, 2);
	if (spec->serial[0])
		make_vpd(f);
	set_config(f, ARI_CAP, 4, PCI_EXT_CAP_ID_ARI | 1 << 16 | (spec->vfs ? SRIOV_CAP << 20 : 0));
	if (!spec->vfs)
		return;
	set_config(f, SRIOV_CAP, 4, PCI_EXT_CAP_ID_SRIOV | 1 << 16);
	set_config(f, SRIOV_CAP + PCI_SRIOV_INITIAL_VF, 2, spec->vfs);
	set_config(f, SRIOV_CAP + PCI_SRIOV_TOTAL_VF, 2, spec->vfs);
	set_config(f, SRIOV_CAP + PCI_SRIOV_VF_OFFSET, 2, VF_OFFSET);
	set_config(f, SRIOV_CAP + PCI_SRIOV_VF_STRIDE, 2, 1);
	set_config(f, SRIOV_CAP + PCI_SRIOV_VF_DID, 2, spec->device + 1);
	set_config(f, SRIOV_CAP + PCI_SRIOV_SUP_PGSIZE, 4, 1);
	set_config(f, SRIOV_CAP + PCI_SRIOV_SYS_PGSIZE, 4, 1);
}

/* A root port that forwards to functions with numbers above 7. */
static struct soft_function *make_port(u8 bus)
{
	struct soft_function *port = kzalloc(sizeof(*port), GFP_KERNEL);

	if (!port)
		return NULL;
	set_config(port, PCI_VENDOR_ID, 2, PCI_VENDOR_ID_REDHAT);
	set_config(port, PCI_DEVICE_ID, 2, 0x7a00);
	set_config(port, PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	set_config(port, PCI_CLASS_REVISION, 4, PCI_CLASS_BRIDGE_PCI << 16);
	set_config(port, PCI_HEADER_TYPE, 1, PCI_HEADER_TYPE_BRIDGE);
	set_config(port, PCI_PRIMARY_BUS, 1, bus - 1);
	set_config(port, PCI_SECONDARY_BUS, 1, bus);
	set_config(port, PCI_SUBORDINATE_BUS, 1, bus);
	/* Windows that end before they begin are shut. */
	set_config(port, PCI_IO_BASE, 1, 0xf0);
	set_config(port, PCI_MEMORY_BASE, 2, 0xfff0);
	set_config(port, PCI_PREF_MEMORY_BASE, 2, 0xfff0);
	set_config(port, PCI_CAPABILITY_LIST, 1, PCIE_CAP);
	set_config(port, PCIE_CAP, 2, PCI_CAP_ID_EXP);
	set_config(port, PCIE_CAP + PCI_EXP_FLAGS, 2, 2 | PCI_EXP_TYPE_ROOT_PORT << 4);
	set_config(port, PCIE_CAP + PCI_EXP_DEVCAP2, 4, PCI_EXP_DEVCAP2_ARI);
	return port;
}

static struct soft_bus *find_bus(const struct vhca_function *spec)
{
	struct soft_bus *soft;

	list_for_each_entry(soft, &buses, node)
		if (soft->sysdata.domain == spec->domain && soft->numbers.end == spec->bus)
			return soft;
	return NULL;
}

static void free_bus(struct soft_bus *soft)
{
	kfree(soft->port);
	kfree(soft);
}

static struct soft_bus *make_bus(const struct vhca_function *spec)
{
	struct soft_bus *soft = kzalloc(sizeof(*soft), GFP_KERNEL);
	LIST_HEAD(resources);

	if (!soft)
		return NULL;
	if (spec->ari) {
		soft->port = make_port(spec->bus);
		if (!soft->port) {
			kfree(soft);
			return NULL;
		}
	}
	soft->sysdata.domain = spec->domain;
	soft->sysdata.node = NUMA_NO_NODE;
	soft->numbers.name = "vhca bus";
	soft->numbers.start = spec->bus - spec->ari;
	soft->numbers.end = spec->bus;
	soft->numbers.flags = IORESOURCE_BUS;
	pci_add_resource(&resources, &soft->numbers);
	pci_lock_rescan_remove();
	soft->root = pci_create_root_bus(NULL, soft->numbers.start, &config_ops, &soft->sysdata,
					 &resources);
	if (soft->root) {
		pci_scan_child_bus(soft->root);
		pci_bus_add_devices(soft->root);
		soft->bus = pci_find_bus(spec->domain, spec->bus);
	}
	pci_unlock_rescan_remove();
	if (!soft->root) {
		pci_free_resource_list(&resources);
		free_bus(soft);
		return NULL;
	}
	list_add_tail(&soft->node, &buses);
	return soft;
}

static void drop_bus_if_empty(struct soft_bus *soft)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(soft->function); i++)
		if (soft->function[i])
			return;
	list_del(&soft->node);
	pci_lock_rescan_remove();
	pci_stop_root_bus(soft->root);
	pci_remove_root_bus(soft->root);
	pci_unlock_rescan_remove();
	free_bus(soft);
}

static void set_function(struct soft_bus *soft, u8 devfn, struct soft_function *f)
{
	unsigned long flags;

	spin_lock_irqsave(&function_lock, flags);
	soft->function[devfn] = f;
	spin_unlock_irqrestore(&function_lock, flags);
}

/* Plugs a function in; the driver makes its HCA. */
int vhca_pci_add(const struct vhca_function *spec)
{
	struct soft_function *f;
	struct soft_bus *soft;
	int err = 0;

	if (spec->ari && !spec->bus)
		return -EINVAL;
	f = kzalloc(sizeof(*f), GFP_KERNEL);
	if (!f)
		return -ENOMEM;
	f->spec = *spec;
	make_config(f);
	mutex_lock(&buses_mutex);
	soft = find_bus(spec);
	if (!soft)
		soft = make_bus(spec);
	if (!soft)
		err = -ENOMEM;
	else if (!soft->bus)
		err = -EIO;
	else if (!soft->port != !spec->ari)
		err = -EBUSY;
	else if (soft->function[spec->devfn])
		err = -EEXIST;
	if (err) {
		kfree(f);
		if (soft)
			drop_bus_if_empty(soft);
		goto out;
	}
	set_function(soft, spec->devfn, f);
	pci_lock_rescan_remove();
	if (!pci_scan_single_device(soft->bus, spec->devfn))
		err = -EIO;
	pci_bus_add_devices(soft->bus);
	pci_unlock_rescan_remove();
	if (err) {
		set_function(soft, spec->devfn, NULL);
		kfree(f);
		drop_bus_if_empty(soft);
	}
out:
	mutex_unlock(&buses_mutex);
	return err;
}

/* Pulls it out. */
void vhca_pci_del(const struct vhca_function *spec)
{
	struct soft_function *f;
	struct soft_bus *soft;
	struct pci_dev *pdev;

	mutex_lock(&buses_mutex);
	soft = find_bus(spec);
	f = soft ? soft->function[spec->devfn] : NULL;
	if (f) {
		pdev = pci_get_slot(soft->bus, spec->devfn);
		if (pdev)
			pci_stop_and_remove_bus_device_locked(pdev);
		pci_dev_put(pdev);
		set_function(soft, spec->devfn, NULL);
		kfree(f);
		drop_bus_if_empty(soft);
	}
	mutex_unlock(&buses_mutex);
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct soft_function *f;
	struct vhca_dev *dev;
	unsigned long flags;
	void *hca = NULL;
	int vf = -1;

	if (pdev->bus->ops != &config_ops)
		return -ENODEV;
	spin_lock_irqsave(&function_lock, flags);
	f = function_at(pdev->bus, pdev->devfn);
	if (!f)
		f = physical(to_soft(pdev->bus), pdev->devfn, &vf);
	if (f)
		hca = f->spec.hca;
	spin_unlock_irqrestore(&function_lock, flags);
	if (!hca)
		return -ENODEV;
	dev = vhca_config_probe(hca, &pdev->dev, vf);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	pci_set_drvdata(pdev, dev);
	return 0;
}

static void remove(struct pci_dev *pdev)
{
	if (!pdev->is_virtfn)
		pci_disable_sriov(pdev);
	vhca_config_remove(pci_get_drvdata(pdev));
}

/* Whatever has no driver; probe() takes those on buses of ours. */
static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(PCI_ANY_ID, PCI_ANY_ID) },
	{ }
};

static struct pci_driver driver = {
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.sriov_configure = pci_sriov_configure_simple,
};

int vhca_pci_init(const char *name)
{
	driver.name = name;
	return pci_register_driver(&driver);
}

void vhca_pci_exit(void)
{
	pci_unregister_driver(&driver);
}
