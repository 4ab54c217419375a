// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include "vhca.h"

DEFINE_MUTEX(vhca_mutex);
DEFINE_SPINLOCK(vhca_lock);
struct workqueue_struct *vhca_wq;

bool vhca_trace;
module_param_named(trace, vhca_trace, bool, 0644);
MODULE_PARM_DESC(trace, "log every packet and every question to an agent");

static char *pci_driver = "vhca";
module_param(pci_driver, charp, 0444);
MODULE_PARM_DESC(pci_driver, "name of the driver of PCI functions, such as mlx5_core");

static int __init vhca_init(void)
{
	int err;

	vhca_wq = alloc_workqueue("vhca", WQ_MEM_RECLAIM | WQ_UNBOUND, 1);
	if (!vhca_wq)
		return -ENOMEM;
	err = vhca_pci_init(pci_driver);
	if (err)
		goto no_pci;
	err = vhca_config_init();
	if (err)
		goto no_config;
	return 0;
no_config:
	vhca_pci_exit();
no_pci:
	destroy_workqueue(vhca_wq);
	return err;
}

static void __exit vhca_exit(void)
{
	vhca_config_exit();
	vhca_pci_exit();
	destroy_workqueue(vhca_wq);
}

module_init(vhca_init);
module_exit(vhca_exit);

MODULE_DESCRIPTION("InfiniBand HCAs and a switch made of software, for tests");
MODULE_LICENSE("GPL");
