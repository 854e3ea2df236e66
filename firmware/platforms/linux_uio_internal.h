/* What linux_uio.c and linux_uio_open.c share. */
#ifndef MOESAIC_LINUX_UIO_INTERNAL_H
#define MOESAIC_LINUX_UIO_INTERNAL_H

#include "linux_uio.h"

#define UIO_OPEN 0x55494F01u /* moesaic_uio.state: unlikely in memory that nobody has initialised */
/* Directions of u-dma-buf. */
#define UIO_TO_DEVICE 1u
#define UIO_FROM_DEVICE 2u

void moesaic_uio_platform(moesaic_uio *self, moesaic_platform *platform);

#endif
