// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/config/vhca: HCAs and switches are directories, what they are to
 * be is in files, and the file "live" plugs an HCA in and pulls it out.
 *
 *	switches/NAME/	guid, description, ports
 *	hcas/NAME/	name, ports, node_guid, sys_image_guid, board_id, hca_type,
 *			fw_ver, description, driver, live, fatal, ibdev,
 *			function, vendor, device, class, vfs, multi_function, ari
 *	hcas/NAME/portN/  guid, switch, link, state, drop, delay_ms
 *
 * One switch is always there: switches/default.
 */
#include <linux/configfs.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <rdma/rdma_user_ioctl_cmds.h>
#include "vhca.h"

struct vhca_hca;

struct hca_port {
	struct config_group group;
	struct vhca_hca *hca;
	int index;
	bool cut;
};

struct vhca_hca {
	struct config_group group;
	struct list_head node;
	struct vhca_spec spec;
	struct hca_port port[VHCA_MAX_PORTS];
	struct vhca_function function;
	struct platform_device *parent;
	struct mutex plug;		/* outside config_mutex, as PCI probes under it */
	bool live;
	struct vhca_dev *dev;		/* while it is plugged in and has a driver */
};

static DEFINE_MUTEX(config_mutex);
static LIST_HEAD(hcas);
static LIST_HEAD(switches);
static u32 serial;			/* for GUIDs that nobody has given */
static struct vhca_switch *default_switch;

static const struct {
	const char *name;
	u32 id;
} drivers[] = {
	/* The one whose library in Debian needs nothing but plain system calls. */
	{ "qib", RDMA_DRIVER_QIB },
	{ "mlx5", RDMA_DRIVER_MLX5 },
	{ "mlx4", RDMA_DRIVER_MLX4 },
	{ "mthca", RDMA_DRIVER_MTHCA },
	{ "unknown", RDMA_DRIVER_UNKNOWN },
};

/* A line without its end. */
static int take_text(char *to, size_t size, const char *page, size_t count)
{
	size_t length = strcspn(page, "\n");

	if (length >= size || length > count)
		return -EINVAL;
	memset(to, 0, size);
	memcpy(to, page, length);
	return 0;
}

static ssize_t take_guid(u64 *to, const char *page, size_t count)
{
	int err = kstrtou64(page, 16, to);

	return err ? err : count;
}

/* Switches */

static struct vhca_switch *to_switch(struct config_item *item)
{
	return container_of(to_config_group(item), struct vhca_switch, group);
}

static ssize_t switch_guid_show(struct config_item *item, char *page)
{
	return sprintf(page, "%016llx\n", be64_to_cpu(to_switch(item)->guid));
}

static ssize_t switch_guid_store(struct config_item *item, const char *page, size_t count)
{
	u64 guid;
	ssize_t n = take_guid(&guid, page, count);

	if (n > 0)
		to_switch(item)->guid = cpu_to_be64(guid);
	return n;
}
CONFIGFS_ATTR(switch_, guid);

static ssize_t switch_description_show(struct config_item *item, char *page)
{
	return sprintf(page, "%.64s\n", to_switch(item)->desc);
}

static ssize_t switch_description_store(struct config_item *item, const char *page, size_t count)
{
	struct vhca_switch *sw = to_switch(item);
	int err = take_text(sw->desc, sizeof(sw->desc), page, count);

	return err ? err : count;
}
CONFIGFS_ATTR(switch_, description);

/* The cables: port, its state, what is at the other end, and that one's LID. */
static ssize_t switch_ports_show(struct config_item *item, char *page)
{
	static const char * const states[] = { "-", "down", "init", "armed", "active" };
	struct vhca_switch *sw = to_switch(item);
	unsigned long flags;
	ssize_t n = 0;
	int i;

	spin_lock_irqsave(&vhca_lock, flags);
	for (i = 1; i <= VHCA_SWITCH_PORTS; i++) {
		struct vhca_end *end = &sw->end[i];

		if (end->peer)
			n += scnprintf(page + n, PAGE_SIZE - n, "%d %s %s %u %u\n", i,
				       states[pi_state(&end->pi)],
				       dev_name(&end->peer->port->dev->ibdev.dev), end->peer->num,
				       be16_to_cpu(end->peer->pi.lid));
	}
	spin_unlock_irqrestore(&vhca_lock, flags);
	return n;
}
CONFIGFS_ATTR_RO(switch_, ports);

static struct configfs_attribute *switch_attributes[] = {
	&switch_attr_guid,
	&switch_attr_description,
	&switch_attr_ports,
	NULL
};

static void switch_release(struct config_item *item)
{
	kvfree(to_switch(item));
}

static struct configfs_item_operations switch_item_ops = { .release = switch_release };

static const struct config_item_type switch_type = {
	.ct_item_ops = &switch_item_ops,
	.ct_attrs = switch_attributes,
	.ct_owner = THIS_MODULE,
};

static struct vhca_switch *switch_new(const char *name)
{
	struct vhca_switch *sw = kvzalloc(sizeof(*sw), GFP_KERNEL);

	if (!sw)
		return NULL;
	config_group_init_type_name(&sw->group, name, &switch_type);
	snprintf(sw->desc, sizeof(sw->desc), "vhca switch %s", name);
	mutex_lock(&config_mutex);
	vhca_switch_init(sw, 0x0e00005e00000000ULL + ++serial);
	list_add_tail(&sw->node, &switches);
	mutex_unlock(&config_mutex);
	return sw;
}

static struct config_group *make_switch(struct config_group *group, const char *name)
{
	struct vhca_switch *sw = switch_new(name);

	return sw ? &sw->group : ERR_PTR(-ENOMEM);
}

/* Its cables are pulled; whoever was to be on it is on none. */
static void switch_gone(struct vhca_switch *sw)
{
	struct vhca_hca *hca;
	int i;

	mutex_lock(&config_mutex);
	list_del(&sw->node);
	list_for_each_entry(hca, &hcas, node)
		for (i = 0; i < VHCA_MAX_PORTS; i++)
			if (hca->spec.sw[i] == sw)
				hca->spec.sw[i] = NULL;
	vhca_switch_release(sw);
	mutex_unlock(&config_mutex);
}

static void drop_switch(struct config_group *group, struct config_item *item)
{
	switch_gone(to_switch(item));
	config_item_put(item);
}

static struct configfs_group_operations switches_ops = {
	.make_group = make_switch,
	.drop_item = drop_switch,
};

static const struct config_item_type switches_type = {
	.ct_group_ops = &switches_ops,
	.ct_owner = THIS_MODULE,
};

/* Ports of HCAs */

static struct hca_port *to_port(struct config_item *item)
{
	return container_of(to_config_group(item), struct hca_port, group);
}

/* The live port, or NULL; config_mutex is held. */
static struct vhca_port *live_port(struct hca_port *port)
{
	struct vhca_dev *dev = port->hca->dev;

	return dev && port->index < dev->spec.ports ? &dev->port[port->index] : NULL;
}

static ssize_t port_guid_show(struct config_item *item, char *page)
{
	struct hca_port *port = to_port(item);

	return sprintf(page, "%016llx\n", port->hca->spec.port_guid[port->index]);
}

static ssize_t port_guid_store(struct config_item *item, const char *page, size_t count)
{
	struct hca_port *port = to_port(item);

	return take_guid(&port->hca->spec.port_guid[port->index], page, count);
}
CONFIGFS_ATTR(port_, guid);

static ssize_t port_switch_show(struct config_item *item, char *page)
{
	struct hca_port *port = to_port(item);
	struct vhca_switch *sw;
	ssize_t n;

	mutex_lock(&config_mutex);
	sw = port->hca->spec.sw[port->index];
	n = sprintf(page, "%s\n", sw ? config_item_name(&sw->group.cg_item) : "none");
	mutex_unlock(&config_mutex);
	return n;
}

static ssize_t port_switch_store(struct config_item *item, const char *page, size_t count)
{
	struct hca_port *port = to_port(item);
	struct vhca_switch *sw, *found = NULL;
	struct vhca_port *live;
	unsigned long flags;
	char name[64];
	int err;

	err = take_text(name, sizeof(name), page, count);
	if (err)
		return err;
	mutex_lock(&config_mutex);
	list_for_each_entry(sw, &switches, node)
		if (!strcmp(config_item_name(&sw->group.cg_item), name))
			found = sw;
	if (!found && strcmp(name, "none")) {
		err = -ENOENT;
		goto out;
	}
	port->hca->spec.sw[port->index] = found;
	live = live_port(port);
	if (live) {
		spin_lock_irqsave(&vhca_lock, flags);
		vhca_cable_pull(&live->end);
		if (found)
			err = vhca_cable_plug(&live->end, found);
		spin_unlock_irqrestore(&vhca_lock, flags);
	}
out:
	mutex_unlock(&config_mutex);
	return err ? err : count;
}
CONFIGFS_ATTR(port_, switch);

static ssize_t port_link_show(struct config_item *item, char *page)
{
	return sprintf(page, "%s\n", to_port(item)->cut ? "down" : "up");
}

static ssize_t port_link_store(struct config_item *item, const char *page, size_t count)
{
	struct hca_port *port = to_port(item);
	struct vhca_port *live;
	unsigned long flags;

	mutex_lock(&config_mutex);
	if (sysfs_streq(page, "down"))
		port->cut = true;
	else if (sysfs_streq(page, "up"))
		port->cut = false;
	else
		count = -EINVAL;
	live = live_port(port);
	if (live) {
		spin_lock_irqsave(&vhca_lock, flags);
		live->end.cut = port->cut;
		vhca_link_update(&live->end);
		spin_unlock_irqrestore(&vhca_lock, flags);
	}
	mutex_unlock(&config_mutex);
	return count;
}
CONFIGFS_ATTR(port_, link);

/* How many more MADs from this port are lost, and how late the others leave. */
static ssize_t port_number(struct config_item *item, const char *page, size_t count, u32 most,
			   size_t field)
{
	struct vhca_port *live;
	u32 value;
	int err = kstrtou32(page, 0, &value);

	if (err || value > most)
		return err ? err : -ERANGE;
	mutex_lock(&config_mutex);
	live = live_port(to_port(item));
	if (live) {
		mutex_lock(&vhca_mutex);
		*(u32 *)((char *)live + field) = value;
		mutex_unlock(&vhca_mutex);
	}
	mutex_unlock(&config_mutex);
	return live ? count : -ENODEV;
}

static ssize_t port_drop_store(struct config_item *item, const char *page, size_t count)
{
	return port_number(item, page, count, U32_MAX, offsetof(struct vhca_port, drop));
}
CONFIGFS_ATTR_WO(port_, drop);

static ssize_t port_delay_ms_store(struct config_item *item, const char *page, size_t count)
{
	return port_number(item, page, count, 10000, offsetof(struct vhca_port, delay_ms));
}
CONFIGFS_ATTR_WO(port_, delay_ms);

/* For programs that answer device management: no system call sets the capability. */
static ssize_t port_device_management_store(struct config_item *item, const char *page, size_t count)
{
	struct hca_port *port = to_port(item);
	struct ib_port_modify modify = {};
	struct vhca_port *live;
	bool on;
	int err = kstrtobool(page, &on);

	if (err)
		return err;
	if (on)
		modify.set_port_cap_mask = IB_PORT_DEVICE_MGMT_SUP;
	else
		modify.clr_port_cap_mask = IB_PORT_DEVICE_MGMT_SUP;
	mutex_lock(&config_mutex);
	live = live_port(port);
	err = live ? ib_modify_port(&port->hca->dev->ibdev, port->index + 1, 0, &modify) : -ENODEV;
	mutex_unlock(&config_mutex);
	return err ? err : count;
}
CONFIGFS_ATTR_WO(port_, device_management);

static struct configfs_attribute *port_attributes[] = {
	&port_attr_guid,
	&port_attr_switch,
	&port_attr_link,
	&port_attr_drop,
	&port_attr_delay_ms,
	&port_attr_device_management,
	NULL
};

static const struct config_item_type port_type = {
	.ct_attrs = port_attributes,
	.ct_owner = THIS_MODULE,
};

/* HCAs */

static struct vhca_hca *to_hca(struct config_item *item)
{
	return container_of(to_config_group(item), struct vhca_hca, group);
}

#define HCA_TEXT(file, field)							\
static ssize_t hca_##file##_show(struct config_item *item, char *page)		\
{										\
	return sprintf(page, "%s\n", to_hca(item)->spec.field);			\
}										\
static ssize_t hca_##file##_store(struct config_item *item, const char *page,	\
				  size_t count)					\
{										\
	struct vhca_spec *spec = &to_hca(item)->spec;				\
	int err = take_text(spec->field, sizeof(spec->field), page, count);	\
										\
	return err ? err : count;						\
}										\
CONFIGFS_ATTR(hca_, file)

#define HCA_GUID(file)								\
static ssize_t hca_##file##_show(struct config_item *item, char *page)		\
{										\
	return sprintf(page, "%016llx\n", to_hca(item)->spec.file);		\
}										\
static ssize_t hca_##file##_store(struct config_item *item, const char *page,	\
				  size_t count)					\
{										\
	return take_guid(&to_hca(item)->spec.file, page, count);		\
}										\
CONFIGFS_ATTR(hca_, file)

HCA_TEXT(name, name);
HCA_TEXT(board_id, board_id);
HCA_TEXT(hca_type, hca_type);
HCA_TEXT(fw_ver, fw_ver);
HCA_TEXT(description, desc);
HCA_GUID(node_guid);
HCA_GUID(sys_image_guid);

static ssize_t hca_ports_show(struct config_item *item, char *page)
{
	return sprintf(page, "%u\n", to_hca(item)->spec.ports);
}

static ssize_t hca_ports_store(struct config_item *item, const char *page, size_t count)
{
	u8 ports;
	int err = kstrtou8(page, 0, &ports);

	if (err || ports < 1 || ports > VHCA_MAX_PORTS)
		return err ? err : -ERANGE;
	to_hca(item)->spec.ports = ports;
	return count;
}
CONFIGFS_ATTR(hca_, ports);

static ssize_t hca_driver_show(struct config_item *item, char *page)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(drivers); i++)
		if (drivers[i].id == to_hca(item)->spec.driver_id)
			return sprintf(page, "%s\n", drivers[i].name);
	return -EINVAL;
}

static ssize_t hca_driver_store(struct config_item *item, const char *page, size_t count)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(drivers); i++) {
		if (sysfs_streq(page, drivers[i].name)) {
			to_hca(item)->spec.driver_id = drivers[i].id;
			return count;
		}
	}
	return -EINVAL;
}
CONFIGFS_ATTR(hca_, driver);

/* Makes the HCA on a device; config_mutex is held. */
static int hca_start(struct vhca_hca *hca, struct device *parent)
{
	struct vhca_dev *dev = vhca_dev_create(&hca->spec, parent);
	unsigned long flags;
	int i;

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	hca->dev = dev;
	dev->owner = &hca->dev;
	spin_lock_irqsave(&vhca_lock, flags);
	for (i = 0; i < dev->spec.ports; i++) {
		dev->port[i].end.cut = hca->port[i].cut;
		vhca_link_update(&dev->port[i].end);
	}
	spin_unlock_irqrestore(&vhca_lock, flags);
	return 0;
}

/* The PCI driver has found a function: the HCA's own, or its virtual one of a number. */
struct vhca_dev *vhca_config_probe(void *data, struct device *parent, int vf)
{
	struct vhca_hca *hca = data;
	struct vhca_dev *dev;
	struct vhca_spec spec;
	int i, err;

	mutex_lock(&config_mutex);
	if (vf < 0) {
		err = hca_start(hca, parent);
		dev = err ? ERR_PTR(err) : hca->dev;
	} else {
		spec = hca->spec;
		spec.vf = true;
		spec.node_guid += (u64)(vf + 1) << 40;
		for (i = 0; i < spec.ports; i++)
			spec.port_guid[i] += (u64)(vf + 1) << 40;
		dev = vhca_dev_create(&spec, parent);
	}
	mutex_unlock(&config_mutex);
	return dev;
}

/* It goes, and its HCA with it. */
void vhca_config_remove(struct vhca_dev *dev)
{
	mutex_lock(&config_mutex);
	if (dev->owner)
		*dev->owner = NULL;
	mutex_unlock(&config_mutex);
	vhca_dev_destroy(dev);
}

static int plug(struct vhca_hca *hca)
{
	int err;

	if (hca->function.domain) {
		hca->function.hca = hca;
		return vhca_pci_add(&hca->function);
	}
	/* IPoIB asks every device for its parent's name. */
	hca->parent = platform_device_register_simple("vhca", PLATFORM_DEVID_AUTO, NULL, 0);
	if (IS_ERR(hca->parent))
		return PTR_ERR(hca->parent);
	mutex_lock(&config_mutex);
	err = hca_start(hca, &hca->parent->dev);
	mutex_unlock(&config_mutex);
	if (err)
		platform_device_unregister(hca->parent);
	return err;
}

static void unplug(struct vhca_hca *hca)
{
	if (hca->function.domain) {
		vhca_pci_del(&hca->function);
		return;
	}
	vhca_config_remove(hca->dev);
	platform_device_unregister(hca->parent);
}

static ssize_t hca_live_show(struct config_item *item, char *page)
{
	return sprintf(page, "%d\n", to_hca(item)->live);
}

static ssize_t hca_live_store(struct config_item *item, const char *page, size_t count)
{
	struct vhca_hca *hca = to_hca(item);
	bool live;
	int err = kstrtobool(page, &live);

	if (err)
		return err;
	mutex_lock(&hca->plug);
	if (hca->live && !live)
		unplug(hca);
	else if (!hca->live && live)
		err = plug(hca);
	if (!err)
		hca->live = live;
	mutex_unlock(&hca->plug);
	return err ? err : count;
}
CONFIGFS_ATTR(hca_, live);

/* Where on the PCI bus it is, as lspci -D writes it; empty: nowhere. */
static ssize_t hca_function_show(struct config_item *item, char *page)
{
	const struct vhca_function *f = &to_hca(item)->function;

	if (!f->domain)
		return 0;
	return sprintf(page, "%04x:%02x:%02x.%u\n", f->domain, f->bus, PCI_SLOT(f->devfn),
		       PCI_FUNC(f->devfn));
}

static ssize_t hca_function_store(struct config_item *item, const char *page, size_t count)
{
	struct vhca_hca *hca = to_hca(item);
	unsigned int domain, bus, slot, function;
	int err = 0;

	if (sscanf(page, "%x:%x:%x.%u", &domain, &bus, &slot, &function) != 4 || !domain ||
	    domain > 0x7fffffff || bus > 0xff || slot > 0x1f || function > 7)
		return -EINVAL;
	mutex_lock(&hca->plug);
	if (hca->live) {
		err = -EBUSY;
	} else {
		hca->function.domain = domain;
		hca->function.bus = bus;
		hca->function.devfn = PCI_DEVFN(slot, function);
	}
	mutex_unlock(&hca->plug);
	return err ? err : count;
}
CONFIGFS_ATTR(hca_, function);

#define HCA_PCI(file, most)							\
static ssize_t hca_##file##_show(struct config_item *item, char *page)		\
{										\
	return sprintf(page, "%#x\n", (u32)to_hca(item)->function.file);	\
}										\
static ssize_t hca_##file##_store(struct config_item *item, const char *page,	\
				  size_t count)					\
{										\
	u32 value;								\
	int err = kstrtou32(page, 0, &value);					\
										\
	if (err || value > (most))						\
		return err ? err : -ERANGE;					\
	to_hca(item)->function.file = value;					\
	return count;								\
}										\
CONFIGFS_ATTR(hca_, file)

/* In vital product data; without one there are none. */
static ssize_t hca_serial_store(struct config_item *item, const char *page, size_t count)
{
	struct vhca_hca *hca = to_hca(item);
	int err = 0;

	mutex_lock(&hca->plug);
	if (hca->live)
		err = -EBUSY;
	else
		strscpy(hca->function.serial, page, sizeof(hca->function.serial));
	mutex_unlock(&hca->plug);
	return err ? err : count;
}
CONFIGFS_ATTR_WO(hca_, serial);

HCA_PCI(vendor, 0xffff);
HCA_PCI(device, 0xffff);
HCA_PCI(class, 0xffffff);
HCA_PCI(vfs, 64);
HCA_PCI(multi_function, 1);
HCA_PCI(ari, 1);

static ssize_t hca_fatal_store(struct config_item *item, const char *page, size_t count)
{
	struct vhca_hca *hca = to_hca(item);

	mutex_lock(&config_mutex);
	if (hca->dev)
		vhca_dev_fatal(hca->dev);
	else
		count = -ENODEV;
	mutex_unlock(&config_mutex);
	return count;
}
CONFIGFS_ATTR_WO(hca_, fatal);

/* What it is called now. */
static ssize_t hca_ibdev_show(struct config_item *item, char *page)
{
	struct vhca_hca *hca = to_hca(item);
	ssize_t n = -ENODEV;

	mutex_lock(&config_mutex);
	if (hca->dev)
		n = sprintf(page, "%s\n", dev_name(&hca->dev->ibdev.dev));
	mutex_unlock(&config_mutex);
	return n;
}
CONFIGFS_ATTR_RO(hca_, ibdev);

static struct configfs_attribute *hca_attributes[] = {
	&hca_attr_name,
	&hca_attr_board_id,
	&hca_attr_hca_type,
	&hca_attr_fw_ver,
	&hca_attr_description,
	&hca_attr_node_guid,
	&hca_attr_sys_image_guid,
	&hca_attr_ports,
	&hca_attr_driver,
	&hca_attr_live,
	&hca_attr_fatal,
	&hca_attr_ibdev,
	&hca_attr_function,
	&hca_attr_serial,
	&hca_attr_vendor,
	&hca_attr_device,
	&hca_attr_class,
	&hca_attr_vfs,
	&hca_attr_multi_function,
	&hca_attr_ari,
	NULL
};

static void hca_release(struct config_item *item)
{
	kfree(to_hca(item));
}

static struct configfs_item_operations hca_item_ops = { .release = hca_release };

static const struct config_item_type hca_type = {
	.ct_item_ops = &hca_item_ops,
	.ct_attrs = hca_attributes,
	.ct_owner = THIS_MODULE,
};

static struct config_group *make_hca(struct config_group *group, const char *name)
{
	struct vhca_hca *hca = kzalloc(sizeof(*hca), GFP_KERNEL);
	struct vhca_spec *spec;
	int i;

	if (!hca)
		return ERR_PTR(-ENOMEM);
	spec = &hca->spec;
	mutex_init(&hca->plug);
	/* An InfiniBand controller that no other driver takes. */
	hca->function.vendor = 0x15b3;
	hca->function.device = 0x7a00;
	hca->function.class = 0x020700;
	config_group_init_type_name(&hca->group, name, &hca_type);
	mutex_lock(&config_mutex);
	/* Not 0x02...: the kernel's CM has service ids of its own there. */
	serial++;
	spec->node_guid = 0x0e00004800000000ULL + ((u64)serial << 8);
	spec->sys_image_guid = spec->node_guid;
	spec->ports = 1;
	spec->driver_id = RDMA_DRIVER_QIB;
	spec->vendor_part_id = 1;
	strscpy(spec->name, "vhca%d", sizeof(spec->name));
	strscpy(spec->board_id, "VHCA0000000001", sizeof(spec->board_id));
	strscpy(spec->hca_type, "VHCA", sizeof(spec->hca_type));
	strscpy(spec->fw_ver, "1.0.0", sizeof(spec->fw_ver));
	strscpy(spec->desc, name, sizeof(spec->desc));
	for (i = 0; i < VHCA_MAX_PORTS; i++) {
		struct hca_port *port = &hca->port[i];
		char file[8];

		port->hca = hca;
		port->index = i;
		spec->port_guid[i] = spec->node_guid + i + 1;
		spec->sw[i] = default_switch;
		snprintf(file, sizeof(file), "port%d", i + 1);
		config_group_init_type_name(&port->group, file, &port_type);
		configfs_add_default_group(&port->group, &hca->group);
	}
	list_add_tail(&hca->node, &hcas);
	mutex_unlock(&config_mutex);
	return &hca->group;
}

static void drop_hca(struct config_group *group, struct config_item *item)
{
	struct vhca_hca *hca = to_hca(item);

	mutex_lock(&hca->plug);
	if (hca->live)
		unplug(hca);
	hca->live = false;
	mutex_unlock(&hca->plug);
	mutex_lock(&config_mutex);
	list_del(&hca->node);
	mutex_unlock(&config_mutex);
	config_item_put(item);
}

static struct configfs_group_operations hcas_ops = {
	.make_group = make_hca,
	.drop_item = drop_hca,
};

static const struct config_item_type hcas_type = {
	.ct_group_ops = &hcas_ops,
	.ct_owner = THIS_MODULE,
};

static const struct config_item_type root_type = { .ct_owner = THIS_MODULE };

static struct configfs_subsystem subsystem = {
	.su_group = { .cg_item = { .ci_namebuf = "vhca", .ci_type = &root_type } },
};

static struct config_group switches_group, hcas_group;

int vhca_config_init(void)
{
	int err;

	config_group_init(&subsystem.su_group);
	mutex_init(&subsystem.su_mutex);
	config_group_init_type_name(&switches_group, "switches", &switches_type);
	config_group_init_type_name(&hcas_group, "hcas", &hcas_type);
	default_switch = switch_new("default");
	if (!default_switch)
		return -ENOMEM;
	configfs_add_default_group(&default_switch->group, &switches_group);
	configfs_add_default_group(&switches_group, &subsystem.su_group);
	configfs_add_default_group(&hcas_group, &subsystem.su_group);
	err = configfs_register_subsystem(&subsystem);
	if (err) {
		vhca_switch_release(default_switch);
		config_item_put(&default_switch->group.cg_item);
	}
	return err;
}

/* Every directory pins the module: none is left. */
void vhca_config_exit(void)
{
	switch_gone(default_switch);
	configfs_unregister_subsystem(&subsystem);
	config_item_put(&default_switch->group.cg_item);
}
